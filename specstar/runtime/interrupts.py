"""Interruptions: what counts as one, and where Ctrl-C may not strike in a trio program.

trio raises KeyboardInterrupt in whatever code runs, between any two steps of it, unless that code is protected; then where
the main task waits next, like a cancellation
(https://trio.readthedocs.io/en/stable/reference-lowlevel.html#safer-keyboardinterrupt-handling). Half a call would leave
a batch that nobody sends, or a wake-up for a task that waits for something else by then.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar

__all__ = ["interrupted", "protect_in_trio", "uninterrupted"]

F = TypeVar("F", bound=Callable[..., Any])
# trio goes by the code, which is one for all wrappers of a decorator.
_marked: dict[CodeType, Callable[..., Any]] = {}
_protected = 0


def uninterrupted(function: F) -> F:
    """Mark a function, with all that it calls, for `protect_in_trio`. Does not import trio."""
    _marked.setdefault(function.__code__, function)
    return function


def protect_in_trio() -> None:
    """In a trio run: from now on Ctrl-C waits until a marked function waits or is over."""
    global _protected
    if _protected == len(_marked):
        return
    import trio

    for function in _marked.values():
        trio.lowlevel.enable_ki_protection(function)
    _protected = len(_marked)


def interrupted(exc_type: type[BaseException] | None) -> bool:
    """True for an exception by which a program is told to end: Ctrl-C, `sys.exit`, a cancellation."""
    return exc_type is not None and not issubclass(exc_type, Exception)
