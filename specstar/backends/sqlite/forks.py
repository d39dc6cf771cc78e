"""Forking with open databases: `fork` waits until no thread is inside SQLite, so that a child never inherits half a job.

SQLite forbids to carry open connections across a fork (https://sqlite.org/howtocorrupt.html, 2.6). Between two jobs a
connection holds nothing in memory that is half done: the child may then close it, which leaves the parent's file locks alone.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["fork_was_clean", "working"]

_WAIT_SECONDS = 30.0

# Reentrant: in a child, the hooks of others may close databases before ours has run.
_changed = threading.Condition(threading.RLock())
_jobs = 0
_clean = True


@contextmanager
def working() -> Iterator[None]:
    """Around every job that runs SQL."""
    global _jobs
    with _changed:
        _jobs += 1
    try:
        yield
    finally:
        with _changed:
            _jobs -= 1
            if _jobs == 0:
                _changed.notify_all()


def fork_was_clean() -> bool:
    """In a forked child: True if no thread of the parent was inside SQLite. Else inherited connections must be left alone."""
    return _clean


def _before() -> None:
    global _clean
    _changed.acquire()
    _clean = _changed.wait_for(lambda: _jobs == 0, _WAIT_SECONDS)


def _in_parent() -> None:
    _changed.release()


def _in_child() -> None:
    global _changed, _jobs
    _changed = threading.Condition(threading.RLock())
    _jobs = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
