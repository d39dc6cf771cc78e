"""Printing for people: tables on a terminal, plain columns in a pipe, nothing that could steer the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

__all__ = ["described", "print_json", "print_table", "print_text", "printable"]

_WIDE = 10_000


def printable(text: str) -> str:
    """The text with control and format characters escaped; line ends stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def described(error: BaseException) -> str:
    """An error of foreign code in one line, with the last place that it passed."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def print_text(text: str, *, style: str = "") -> None:
    """A line on stdout."""
    from rich.text import Text

    _print(Text(printable(text), style=style))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table on stdout. In a pipe each row is one line, in columns, without borders or colours."""
    from rich.text import Text

    console = _console()
    if title:
        console.print(Text(printable(title), style="bold"))
    table = _table(console)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell).replace("\n", " "), style=_STYLES.get(cell, "")) for cell in row))
    console.print(table)


def print_json(value: Any) -> None:
    """JSON on stdout, ASCII so that any terminal and locale takes it."""
    import json

    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


_STYLES = {"ok": "green", "FAILED": "bold red"}


def _table(console: Console) -> Table:
    from rich import box
    from rich.table import Table

    if not console.is_terminal:
        return Table(box=None, pad_edge=False, show_edge=False, header_style="")
    style = box.ASCII if console.is_dumb_terminal else box.SIMPLE_HEAD
    return Table(box=style, pad_edge=False, show_edge=False)


def _print(what: RenderableType) -> None:
    _console().print(what)


def _console() -> Console:
    from rich.console import Console

    piped = not sys.stdout.isatty()
    return Console(width=_WIDE if piped else None, highlight=False, markup=False, emoji=False)
