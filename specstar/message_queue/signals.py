"""SIGTERM and SIGINT for any number of `run_workers` at once: one registration in the process, shared by all of them."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["at_signals"]

logger: logging.Logger = logging.getLogger("specstar")
# `signal.default_int_handler` is of _signal.
_LOOPS = frozenset({"_signal", "signal", "asyncio", "trio", "uvloop"})
_NUMBERS = (signal.SIGTERM, signal.SIGINT)
_listeners: list[Callable[[], None]] = []
# What was there before ours. Only the main thread installs handlers, and runs them.
_before: dict[int, Any] = {}
# The first begins the drain, the second ends it: whoever sends a third means it.
_PATIENCE = 3
_seen = 0


@contextlib.contextmanager
def at_signals(listener: Callable[[], None]) -> Iterator[None]:
    """Have `listener` called at each SIGTERM and SIGINT, beside those of others. In other threads than the main one: never.

    The first puts the handler of the process in place, the last puts the one before it back. A handler of the program
    itself, or of a web server in it, is called too, after the listeners.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _seen
    if not _listeners:
        _seen = 0
    _listeners.append(listener)
    try:
        for number in _NUMBERS:
            handler = signal.signal(number, _handle)
            if handler is not _handle:
                _before[number] = handler
        yield
    finally:
        _listeners.remove(listener)
        if not _listeners:
            _put_back()


def _handle(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen += 1
    if _seen >= _PATIENCE:
        logger.warning(
            "%s: a handler does not let itself be stopped; the next signal is not ours", signal.Signals(number).name
        )
    else:
        logger.info("%s: the workers stop", signal.Signals(number).name)
    # Once for those who share one.
    for listener in dict.fromkeys(_listeners):
        listener()
    before = _before.get(number)
    if _seen >= _PATIENCE:
        _put_back()
    if callable(before) and not _ends_at_once(before):
        before(number, frame)  # a web server's, in whose process the workers run: it stops too


def _ends_at_once(handler: Callable[..., Any]) -> bool:
    """True for the handlers of Python and its event loops, which would end the program in the middle of the drain."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    module = getattr(handler, "__module__", None) or ""
    return module.partition(".")[0] in _LOOPS


def _after_fork_in_child() -> None:
    """The workers are the parent's: signals of the child are its own business."""
    _listeners.clear()
    _put_back()


def _put_back() -> None:
    for number, handler in _before.items():
        # One that the program has put in place meanwhile stays.
        if signal.getsignal(number) is _handle:
            # None: it was not installed from Python, and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _before.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
