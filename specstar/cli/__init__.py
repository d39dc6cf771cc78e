"""The `specstar` command. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: those of the process). Returns 0, or 1 if something is wrong.

    Errors go to stderr without a traceback.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        from specstar.cli.app import version

        print(version())
        return 0
    from specstar.cli.app import run

    return run(given)
