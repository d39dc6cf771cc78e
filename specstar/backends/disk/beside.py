"""Two halves of one job, each in a thread: what frees the interpreter (hashes, file calls) runs at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["beside"]


@contextmanager
def beside(function: Callable[[], None]) -> Iterator[None]:
    """Run a function in a thread of its own while the block runs; waits for it at the end, and raises its error."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="specstar-beside", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]
