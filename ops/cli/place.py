"""Where a verb runs: on this machine, where it is the host, or over SSH on an environment's host.

A verb that needs the host begins with `on_host(context)`. On the operator's machine that runs the
same verb there and ends with its exit code; what the person typed is checked here before.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import typer

from ops.clients.ssh import Remote
from ops.errors import MissingToolError, SettingsError
from ops.settings import Environment, load_environment
from ops.settings.host import CONFIG, Credentials, HostConfig, load_host_config

HOST_PROGRAM = "/usr/local/bin/stackroom"
NOT_FOUND = 127  # of the shell, for a program that is not there


@dataclass(frozen=True)
class Elsewhere:
    """The operator's machine: `-e` as it was given, and where the environments are."""

    environment: str
    inventory: Path

    def load(self) -> Environment:
        """Raises SettingsError where no environment was named, or it is wrong."""
        if not self.environment:
            raise SettingsError("which environment?", "stackroom -e <environment> ...")
        if self.environment == "example":
            raise SettingsError(
                "example is the manual, not an environment", "stackroom init --help"
            )
        return load_environment(self.inventory / self.environment)


@dataclass(frozen=True)
class Here:
    """This machine is the host."""

    config_file: Path = CONFIG

    @cached_property
    def config(self) -> HostConfig:
        return load_host_config(self.config_file)

    @cached_property
    def credentials(self) -> Credentials:
        return Credentials()


def environment_of(context: typer.Context) -> Environment:
    """The environment that a verb of the operator's machine is about. Raises SettingsError."""
    place: Elsewhere = context.obj
    return place.load()


def on_host(context: typer.Context) -> Here:
    """This host's configuration and credentials; elsewhere the verb runs there, and this exits.

    Raises UnreachableError without a login, MissingToolError before the first deploy.
    """
    if isinstance(context.obj, Here):
        return context.obj
    raise typer.Exit(relay(environment_of(context), context))


def relay(environment: Environment, context: typer.Context) -> int:
    """Run the verb of `context` on the environment's host; its exit code."""
    given = context.params
    asks = "yes" in given and not given["yes"]
    terminal = not given.get("json_output") and all(
        stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)
    )
    command = shlex.join([HOST_PROGRAM, *typed(context)])
    code = Remote(environment).attach(command, terminal=terminal, stdin=asks or terminal)
    if code == NOT_FOUND:
        raise MissingToolError(
            f"{environment.machine.address} does not have Stackroom's own verbs yet",
            f"stackroom -e {environment.name} deploy",
        )
    return code


def typed(context: typer.Context) -> list[str]:
    """The words after the program's name that lead to this call: verbs, options, arguments.

    Made from the parsed values, so that nothing that was not understood here is sent on.
    """
    verbs: list[str] = []
    step: Any = context
    while step.parent is not None:
        verbs.insert(0, step.info_name)
        step = step.parent
    options, arguments = [], []
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if value is None or value is False or value == "":
            continue
        if parameter.param_type_name == "argument":
            arguments.append(str(value))
        elif value is True:
            options.append(parameter.opts[0])
        else:
            options.append(f"{parameter.opts[0]}={value}")
    return [*verbs, *options, *(["--", *arguments] if arguments else [])]
