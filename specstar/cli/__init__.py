"""The `specstar` command. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with `arguments` (default: those of the process). Returns 0, 1 if something is wrong, 130 after Ctrl-C.

    Errors go to stderr without a traceback.
    """
    from specstar.cli.app import run

    return run(list(sys.argv[1:] if arguments is None else arguments))
