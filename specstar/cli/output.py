"""Printing for people: tables on a terminal, plain columns in a pipe, nothing that could steer the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from specstar.escaping import escaped

__all__ = ["described", "print_json", "print_table", "print_text", "printable"]

_STYLES = {"ok": "green", "FAILED": "bold red"}


def printable(text: str) -> str:
    """The text with control and format characters escaped; line ends stay."""
    return escaped(text, keep="\n")


def described(error: BaseException) -> str:
    """An error of foreign code in one line, with the last place that it passed."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{place}"


def print_text(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(f"{printable(text)}\n")


def print_json(value: Any) -> None:
    """JSON on stdout, ASCII so that any terminal and locale takes it."""
    import json

    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A table on stdout. In a pipe each row is one line, in columns, without borders or colours."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_for_terminal(columns, cells, title)
        return
    if title:
        print_text(title)
    lines = [list(columns), *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(padded.rstrip() + "\n")


def _print_for_terminal(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False)
    if title:
        console.print(Text(printable(title), style="bold"))
    style = box.ASCII if console.is_dumb_terminal else box.SIMPLE_HEAD
    table = Table(box=style, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    console.print(table)
