"""`specstar completion`: the script that makes a shell complete commands and options."""

from __future__ import annotations

import sys
from typing import Literal

__all__ = ["completion"]


def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print the script by which a shell completes commands, options and their choices.

    Parameters
    ----------
    shell
        The shell that reads it.
    """
    from specstar.cli.app import command_line

    sys.stdout.write(command_line().generate_completion(shell=shell))
    return 0
