"""What every verb shares: options, consoles, questions, and how an error ends the process."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from ops.errors import StackroomError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

UsageError: Any = typer.BadParameter.__base__  # the one of the click that typer carries
USAGE = 64  # EX_USAGE of sysexits.h
SOFTWARE = 70  # EX_SOFTWARE: a fault of ours
INTERRUPTED = 130
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def new_app(help_text: str, cls: type[TyperGroup] | None = None) -> typer.Typer:
    """A group of verbs."""
    return typer.Typer(
        cls=cls,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help=help_text,
    )


def print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def sure(question: str, *, yes: bool) -> None:
    """Ask, unless `yes`. Ends the process where the answer is no.

    Raises StackroomError where nobody is there to answer.
    """
    if yes:
        return
    err.print(f"{question} [y/N]: ", end="", markup=False)
    answer = sys.stdin.readline()
    if not answer:
        err.print()
        raise StackroomError("nobody is there to answer; nothing was changed", "add --yes")
    if answer.strip().lower() not in ("y", "yes"):
        err.print("nothing was changed")
        raise typer.Exit(1)


def say_error(error: StackroomError) -> None:
    """One message and the next command, on standard error."""
    err.print(f"stackroom: {error.message}", markup=False, style="red")
    if error.hint:
        err.print(f"next: {error.hint}", markup=False)


def run(app: Callable[..., Any]) -> None:
    """Every expected error is one message, the next command and an exit code of its own."""
    try:
        sys.exit(app(prog_name="stackroom", standalone_mode=False))
    except UsageError as error:
        # its own exit code is 2, which `plan` uses for drift
        error.show()
        sys.exit(USAGE)
    except (typer.Abort, KeyboardInterrupt):
        err.print("stackroom: interrupted; nothing is lost, run it again", markup=False)
        sys.exit(INTERRUPTED)
    except StackroomError as error:
        say_error(error)
        sys.exit(error.exit_code)
    except Exception:
        # Python's own 1 would pass for a warning
        traceback.print_exc()
        sys.exit(SOFTWARE)
