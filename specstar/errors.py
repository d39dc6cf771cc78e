"""Every error that specstar raises on purpose: one family under `SpecstarError`.

Attributes carry what a program needs in order to act (role, backend, ids, paths); messages carry what a person needs: what
failed, where, and the next step. Driver errors are chained as `__cause__`. No message holds a password, key or token.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from specstar.suggestions import did_you_mean

__all__ = [
    "BackendError",
    "BackendUnavailable",
    "BlobIntegrityError",
    "BlobNotFoundError",
    "ConfigError",
    "ConfigProblem",
    "DecodeError",
    "DuplicateResourceError",
    "IdempotencyConflictError",
    "InvalidInputError",
    "JobNotFoundError",
    "LimitExceededError",
    "MissingDependencyError",
    "NotConfiguredError",
    "OutcomeUnknownError",
    "QueryError",
    "ResourceDeletedError",
    "ResourceNotFoundError",
    "RevisionConflictError",
    "RevisionStateError",
    "SchemaVersionError",
    "SpecstarError",
    "UsageError",
    "WaitTimeoutError",
]

E = TypeVar("E", bound=Exception)
_MAX_SHOWN = 80


class SpecstarError(Exception):
    """The base of all errors that specstar raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors have keyword-only constructors and cross process borders (worker pools): rebuild them from their state.
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(cls: type[SpecstarError], args: tuple[Any, ...], state: dict[str, Any]) -> SpecstarError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


def twin_of(error: E) -> E:
    """An error of its own for each of several callers: a shared one would gather every caller's traceback."""
    try:
        twin = copy.copy(error)
    except Exception:  # of a foreign class
        return error
    twin.__cause__ = error.__cause__ or error
    return twin


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in a configuration: where it is, what is wrong, and the nearest valid name if there is one."""

    path: str
    reason: str
    suggestion: str | None = None

    def __str__(self) -> str:
        hint = did_you_mean(self.suggestion)
        return f"{self.path}: {self.reason}{hint}" if self.path else f"{self.reason}{hint}"


class ConfigError(SpecstarError):
    """A configuration that cannot be used. `problems` lists every mistake found, each with its JSON path."""

    problems: tuple[ConfigProblem, ...]

    def __init__(self, problems: Sequence[ConfigProblem] | ConfigProblem | str, *, source: str | None = None) -> None:
        if isinstance(problems, str):
            problems = (ConfigProblem("", problems),)
        elif isinstance(problems, ConfigProblem):
            problems = (problems,)
        self.problems = tuple(problems)
        self.source = source
        head = f"{source}: " if source else ""
        if len(self.problems) == 1:
            message = f"{head}{self.problems[0]}"
        else:
            lines = "".join(f"\n  {problem}" for problem in self.problems)
            message = f"{head}{len(self.problems)} problems in the configuration:{lines}"
        super().__init__(message)


class NotConfiguredError(SpecstarError):
    """A role, model or job was used that the configuration does not provide."""


class UsageError(SpecstarError):
    """A call that can never work as written, e.g. the sync facade inside a running event loop."""


class MissingDependencyError(SpecstarError):
    """An optional package is not installed. `extra` names the extra that brings it."""

    def __init__(self, package: str, *, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"the package {package!r} is not installed; install it with: pip install 'specstar[{extra}]'")


class InvalidInputError(SpecstarError, ValueError):
    """A value that no backend may store: an empty id, a NUL in text, a wrong type. `field` names it."""

    def __init__(self, message: str, *, field: str | None = None) -> None:
        self.field = field
        super().__init__(message)


class LimitExceededError(InvalidInputError):
    """A value beyond a stated limit. `limit` and `actual` are in the unit that the message names."""

    def __init__(self, message: str, *, field: str | None = None, limit: int, actual: int) -> None:
        self.limit = limit
        self.actual = actual
        super().__init__(message, field=field)


class QueryError(InvalidInputError):
    """A query that cannot be run. `path` is the field or position, `suggestion` the nearest valid name."""

    def __init__(self, message: str, *, path: str | None = None, suggestion: str | None = None) -> None:
        self.path = path
        self.suggestion = suggestion
        super().__init__(f"{message}{did_you_mean(suggestion)}", field=path)


class BackendError(SpecstarError):
    """A backend refused or failed for good: no space, no permission, a missing bucket. Nothing was acknowledged."""

    def __init__(self, message: str, *, role: str | None = None, backend: str | None = None) -> None:
        self.role = role
        self.backend = backend
        where = " on ".join(part for part in (role, backend) if part)
        super().__init__(f"{where}: {message}" if where else message)


class BackendUnavailable(BackendError):
    """A backend cannot be reached, or did not answer in time. Calls work again once it is back: retry later."""


class SchemaVersionError(BackendError):
    """Stored data was written by another version or another program. Nothing was changed."""


class OutcomeUnknownError(BackendError):
    """The answer to a commit was lost and could not be found out: it is there whole, or not at all.

    Read the resource before repeating the call; a conditional call or a given id makes repeating safe.
    """


class ResourceNotFoundError(SpecstarError, LookupError):
    """No resource (or no such revision of it) has this id."""

    def __init__(
        self, resource_id: str, *, revision_id: str | None = None, model: str | None = None, message: str | None = None
    ) -> None:
        self.resource_id = resource_id
        self.revision_id = revision_id
        self.model = model
        what = f"{model or 'resource'} {shown(resource_id)}"
        if revision_id is not None:
            what += f" has no revision {shown(revision_id)}"
        else:
            what += " does not exist"
        super().__init__(message or what)


class ResourceDeletedError(ResourceNotFoundError):
    """The resource is softly deleted; `restore` brings it back."""

    def __init__(self, resource_id: str, *, model: str | None = None) -> None:
        what = f"{model or 'resource'} {shown(resource_id)} is deleted; restore() brings it back"
        super().__init__(resource_id, model=model, message=what)


class DuplicateResourceError(SpecstarError):
    """A resource with this id exists already."""

    def __init__(self, resource_id: str, *, model: str | None = None) -> None:
        self.resource_id = resource_id
        self.model = model
        super().__init__(f"{model or 'resource'} {shown(resource_id)} exists already")


class RevisionConflictError(SpecstarError):
    """Someone else wrote first. `actual_revision_id` is the current revision, if known: read, merge, try again."""

    def __init__(
        self,
        resource_id: str,
        *,
        expected_revision_id: str | None = None,
        actual_revision_id: str | None = None,
        model: str | None = None,
        message: str | None = None,
    ) -> None:
        self.resource_id = resource_id
        self.expected_revision_id = expected_revision_id
        self.actual_revision_id = actual_revision_id
        self.model = model
        if message is None:
            message = f"{model or 'resource'} {shown(resource_id)} was changed by another writer"
            if expected_revision_id is not None:
                message += f": expected revision {shown(expected_revision_id)}"
                if actual_revision_id is not None:
                    message += f", found {shown(actual_revision_id)}"
            message += "; read it again and repeat the change"
        super().__init__(message)


class RevisionStateError(SpecstarError):
    """The revision is in the wrong state for the call: `modify` works on drafts only."""

    def __init__(self, resource_id: str, *, revision_id: str, message: str) -> None:
        self.resource_id = resource_id
        self.revision_id = revision_id
        super().__init__(message)


class DecodeError(SpecstarError):
    """Stored bytes do not decode into the model. `resource_id` and `revision_id` (or `job_id`) say which."""

    def __init__(
        self,
        message: str,
        *,
        resource_id: str | None = None,
        revision_id: str | None = None,
        job_id: str | None = None,
        model: str | None = None,
    ) -> None:
        self.resource_id = resource_id
        self.revision_id = revision_id
        self.job_id = job_id
        self.model = model
        super().__init__(message)


class BlobNotFoundError(SpecstarError, LookupError):
    """No blob (or upload session) has this id."""

    def __init__(self, file_id: str, *, message: str | None = None) -> None:
        self.file_id = file_id
        super().__init__(message or f"blob {shown(file_id)} does not exist")


class BlobIntegrityError(SpecstarError):
    """The bytes of a blob do not match their checksum or announced size. Nothing was committed."""

    def __init__(self, message: str, *, file_id: str | None = None) -> None:
        self.file_id = file_id
        super().__init__(message)


class JobNotFoundError(SpecstarError, LookupError):
    """No job has this id."""

    def __init__(self, job_id: str, *, queue: str | None = None) -> None:
        self.job_id = job_id
        self.queue = queue
        super().__init__(f"job {shown(job_id)} does not exist" + (f" in {queue!r}" if queue else ""))


class IdempotencyConflictError(SpecstarError):
    """The idempotency key was used before with a different payload. `job_id` is the earlier job."""

    def __init__(self, key: str, *, job_id: str) -> None:
        self.key = key
        self.job_id = job_id
        super().__init__(f"idempotency key {shown(key)} belongs to job {job_id} with a different payload")


class WaitTimeoutError(SpecstarError, TimeoutError):
    """A `wait` ran out of its own time. What it waited for goes on."""


def shown(text: object) -> str:
    """A user's id made safe to print: quoted, control characters escaped, cut when long. It may be no text at all."""
    if not isinstance(text, str):
        return f"of type {type(text).__name__}"
    if len(text) <= _MAX_SHOWN:
        return repr(text)
    return f"{text[:_MAX_SHOWN]!r}... ({len(text)} characters)"
