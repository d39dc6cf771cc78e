"""How one attempt at a write can fail, as far as the next step depends on it. Never seen outside this room."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

__all__ = ["AnswerLost", "BadValue", "ServerSession", "WriteRace"]


class ServerSession(NamedTuple):
    """A server process, told apart from a later one with the same number by its start.

    `started` None: this role may not see it, nor end the process. `pid` None: it cannot be known.
    """

    pid: int | None
    started: datetime | None


class AnswerLost(Exception):
    """The statement may have been committed: the connection broke, or no answer came in time (`timed_out`)."""

    def __init__(self, session: ServerSession, *, timed_out: bool) -> None:
        self.session = session
        self.timed_out = timed_out
        super().__init__(f"no answer from server process {session.pid}")


class WriteRace(Exception):
    """A deadlock or serialization failure: rolled back, worth another attempt."""


class BadValue(Exception):
    """The server or driver refused a value: rolled back; it will refuse it again."""
