"""The commands, and what happens to their errors."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from specstar.errors import SpecstarError

__all__ = ["command_line", "run", "version"]


def version() -> str:
    """The installed version of specstar."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("specstar")
    except PackageNotFoundError:
        return "unknown (not installed as a package)"


# Imported when run; the texts stand here so that --help imports none of them.
_COMMANDS = {
    "check": "Open every role of a configuration and report each.",
    "show": "Show what each role of a configuration resolves to.",
    "schema": "Print the JSON Schema of configuration files.",
    "worker": "Run the workers of a program's jobs.",
    "job": "Show one job of a program, or cancel it.",
    "jobs": "Show how many jobs a program has, by status, or the newest of one type.",
    "dead": "Show the dead letters of a job, send them back to work, or delete them.",
    "copy": "Copy all that a program keeps into the backends of another configuration.",
    "gc": "Remove what killed writers and unfinished uploads left behind.",
    "completion": "Print the script for completion in bash, zsh or fish.",
}
_MODULES = {"dead": "jobs"}


def command_line() -> App:
    """All commands, none of them imported yet."""
    plain = not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"
    app = App(
        name="specstar",
        help="Check and show configurations, run workers, look after jobs, copy what is kept, remove garbage.",
        version=version,
        help_format="plaintext",
        help_formatter="plain" if plain else "default",
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for name, text in _COMMANDS.items():
        app.command(f"specstar.cli.{_MODULES.get(name, name)}:{name}", name=name, help=text)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Returns the exit status: 0, 1, or 130 after Ctrl-C, as shells expect."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A plain locale shows what it cannot write as escapes, instead of failing.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = command_line()(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        fail(f"{error}\nTry: specstar --help")
    except SpecstarError as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader (head, less) has left: what was buffered must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        fail("interrupted")
        return 130
    except Exception as error:
        from specstar.cli.output import described

        fail(f"unexpected {described(error)}")
    else:
        return status if isinstance(status, int) else 0
    return 1


def fail(message: str) -> None:
    """Say on stderr what went wrong."""
    from specstar.cli.output import printable

    print(f"specstar: {printable(message)}", file=sys.stderr)
