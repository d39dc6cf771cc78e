"""What a configuration comes to: one backend with typed options for each role."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from msgspec import Struct

from specstar.config.redaction import Redacted, redacted_options
from specstar.config.structs import BackendDefaults, Role

if TYPE_CHECKING:
    from specstar.backends.provider import BackendProvider

__all__ = ["JOB_STATE_IN_MEMORY", "Origin", "ResolvedBackend", "ResolvedConfig", "blob_warning"]

Origin: TypeAlias = Literal["given", "connection", "defaults", "default"]
JOB_STATE_IN_MEMORY = (
    "the state of jobs is in the memory of each process, where no other can look at it: bind meta and resource to a durable "
    "backend, or declare the jobs with keep_state=False"
)


class ResolvedBackend(Redacted, Struct, frozen=True, kw_only=True, eq=False):
    """What fills one role: provider, typed options, and the connection they came from (None: an inline backend).

    `origins` names the options that were set and where: `given` in the binding, in the `connection`, in `defaults`.
    `pinned` are the options that stores and connections get.
    """

    role: Role
    type: str
    provider: BackendProvider[Any, Any]
    options: Any
    pinned: Any
    connection: str | None = None
    tags: tuple[str, ...] = ()
    origins: dict[str, Origin] = {}

    def origin_of(self, option: str) -> Origin:
        """Where an option's value came from; `default` is the backend's own."""
        return self.origins.get(option, "default")

    def shown_options(self) -> dict[str, Any]:
        """All options by name, with `***` for secrets."""
        return redacted_options(self.options)

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [
            ("role", self.role),
            ("type", self.type),
            ("connection", self.connection),
            ("options", self.shown_options()),
        ]


class ResolvedConfig(Struct, frozen=True, kw_only=True, eq=False):
    """The backends of all roles; `mq` is None if none is configured. `source` is the file it came from."""

    meta: ResolvedBackend
    resource: ResolvedBackend
    blob: ResolvedBackend
    mq: ResolvedBackend | None
    defaults: BackendDefaults
    source: str | None = None

    def __iter__(self) -> Iterator[ResolvedBackend]:
        """The roles that are bound, in the order meta, resource, blob, mq."""
        return iter([bound for bound in (self.meta, self.resource, self.blob, self.mq) if bound is not None])

    def warnings(self, *, in_use: bool = False) -> list[str]:
        """What is allowed, but hardly meant: roles in memory beside those that outlive the process.

        `in_use`: also what matters only once there are blobs and jobs, and is logged then.
        """
        kept = {bound.role: bound.type for bound in self if bound.provider.durable}
        found = []
        if "meta" in kept and "resource" not in kept:
            found.append(
                f"meta is on {kept['meta']}, but the payloads of resources are in memory, and gone when the process ends: "
                "bind resource too"
            )
        elif "resource" in kept and "meta" not in kept:
            found.append(
                f"payloads of resources are on {kept['resource']}, but meta is in memory: nothing finds them again when the "
                "process has ended; bind meta too"
            )
        if in_use:
            found += [warning for warning in (blob_warning(self), _job_warning(self)) if warning is not None]
        return found


def blob_warning(bound: Iterable[ResolvedBackend]) -> str | None:
    """What it means that blobs are in memory, where resources are not."""
    kept = {each.role: each.type for each in bound if each.provider.durable}
    if "meta" not in kept or "resource" not in kept or "blob" in kept:
        return None
    return (
        f"resources are on {kept['resource']}, but blobs are in memory, and gone when the process ends: bind blob too"
    )


def _job_warning(bound: Iterable[ResolvedBackend]) -> str | None:
    """What it means that the state of jobs is in memory, where their queue is not."""
    kept = {each.role for each in bound if each.provider.durable}
    if "mq" not in kept or {"meta", "resource"} <= kept:
        return None
    return JOB_STATE_IN_MEMORY
