"""Groups of verbs that are imported when one of them is asked for: a verb starts in half the time.

Only what is named here waits; what is wrong in such a module shows when its verbs, or the help of
all of them, are called.
"""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup


def later(**where: str) -> type[TyperGroup]:
    """For `new_app(..., cls=)`: verbs by name, each as "module:app" or "module:function"."""

    class Group(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            self.commands = _Commands({**self.commands, **where})

    return Group


class _Commands(UserDict[str, Any]):
    """What is a name yet is imported when it is taken; to list the names imports nothing."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, str):
            found = self.data[name] = _command(name, found)
        return found


def _command(name: str, where: str) -> Any:
    module, _, attribute = where.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command: Any = typer.main.get_group(found)
    else:
        alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        alone.command()(found)
        command = typer.main.get_command(alone)
    command.name = name
    return command
