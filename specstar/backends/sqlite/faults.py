"""What SQLite reports, as specstar's errors, each with the next step."""

from __future__ import annotations

import apsw

from specstar.errors import (
    BackendError,
    BackendUnavailable,
    DecodeError,
    LimitExceededError,
    SchemaVersionError,
    SpecstarError,
)

__all__ = ["DISK_ERRORS", "is_fatal", "translate"]

_STEPS: dict[type[apsw.Error], str] = {
    apsw.FullError: "the disk is full: free some space, then repeat the call",
    apsw.ReadOnlyError: "it is read-only: check the permissions of the file and its folder, and how the disk is mounted",
    apsw.CorruptError: "the database is damaged: stop the writers and restore it from a backup",
    apsw.CantOpenError: "it cannot be opened: check that the folder exists and may be written to",
    apsw.PermissionsError: "permission denied: check the owner of the file and its folder",
    apsw.AuthError: "permission denied: check the owner of the file and its folder",
    apsw.IOError: "the disk reported an error: check it (dmesg, smartctl), then repeat the call",
    apsw.NoMemError: "not enough memory",
    apsw.NoLFSError: "the file system does not take files of this size",
    apsw.ProtocolError: "its locks do not work: is it on a network file system?",
}
DISK_ERRORS = (apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.PermissionsError)
"""After these a connection may be broken although the cause has passed."""
# After these the transaction is gone, or going on with it would be wrong.
_FATAL = (
    apsw.FullError,
    apsw.ReadOnlyError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.PermissionsError,
    apsw.IOError,
    apsw.NoMemError,
    apsw.NoLFSError,
    apsw.ProtocolError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.InterruptError,
    apsw.AbortError,
)


def is_fatal(error: Exception) -> bool:
    """True if the error concerns the database as a whole, not the one statement."""
    return isinstance(error, _FATAL)


def translate(error: Exception, database: str) -> SpecstarError:
    """The error to raise `from` this one. `database` names the database, as a path where it is a file."""
    if isinstance(error, SpecstarError):
        return error
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return BackendUnavailable(
            f"{database}: another process kept it locked for longer than the busy timeout; repeat the call"
        )
    if isinstance(error, UnicodeDecodeError):
        return DecodeError(f"{database}: a stored text is damaged ({error}): restore it from a backup")
    if isinstance(error, apsw.InterruptError):
        return BackendUnavailable(f"{database}: the call was interrupted because the database is being closed")
    if isinstance(error, apsw.NotADBError):
        return SchemaVersionError(
            f"{database}: the file is no SQLite database, and was left as it is; choose another folder, or restore a backup"
        )
    if isinstance(error, apsw.TooBigError):
        limit = 1_000_000_000
        return LimitExceededError(f"{database}: a value is larger than SQLite's limit", limit=limit, actual=limit + 1)
    step = next((text for kind, text in _STEPS.items() if isinstance(error, kind)), "")
    detail = f"{step} ({error})" if step else f"{type(error).__name__}: {error}"
    return BackendError(f"{database}: {detail}")
