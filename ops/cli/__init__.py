"""The verbs: `stackroom` on an operator's machine, `python -m ops.cli.host` on the host.

Imports nothing by itself: the host is given only the part of this that it needs.
"""

from __future__ import annotations

from typing import Any


def main() -> None:
    """The console script of the operator's machine."""
    from ops.cli.common import run

    def verbs(**options: Any) -> Any:  # what an import refuses is told as any error is
        from ops.cli.operator import app

        return app(**options)

    run(verbs)
