"""Forks and the end of the program, as the gates of this process meet them."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Any, Protocol

__all__ = ["Member", "join", "keep_for_good", "stay_if_exiting"]


class Member(Protocol):
    """What is told of forks and of the end of the program while it lives."""

    def after_fork(self) -> None:
        """In a forked child: leave alone what belongs to the parent."""

    def end(self) -> None:
        """The program ends."""


_members: weakref.WeakSet[Member] = weakref.WeakSet()
_inherited: list[Any] = []
_exiting = False


def join(member: Member) -> None:
    """Tell this one too. It is not kept alive by that."""
    _members.add(member)


def keep_for_good(*inherited: Any) -> None:
    """Never free these: freeing a parent's loop would unregister its sockets from the poller that both share."""
    _inherited.extend(one for one in inherited if one is not None)


def stay_if_exiting() -> None:
    """At the end of the program a daemon thread stops where it is, as all daemon threads do, instead of failing aloud."""
    if _exiting and threading.current_thread().daemon:
        threading.Event().wait()


def _after_fork_in_child() -> None:
    global _exiting
    _exiting = False
    for member in list(_members):
        member.after_fork()


def _at_exit() -> None:
    global _exiting
    _exiting = True
    for member in list(_members):
        member.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
