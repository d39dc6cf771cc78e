"""`specstar job`: one job of a program as its state tells, and cancelling it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from specstar import Job, SpecStar

__all__ = ["job"]


def job(
    target: str,
    name: str,
    job_id: str,
    /,
    *,
    cancel: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show one job: its status, attempts, times, payload, result, and the error and traceback of its last failure.

    Parameters
    ----------
    target
        MODULE:NAME of the program's SpecStar object, such as app.jobs:spec. The module must configure it.
    name
        Name of the job.
    job_id
        Its id.
    cancel
        Cancel it first, if it has not ended.
    json
        Print JSON.
    """
    import anyio
    import msgspec

    from specstar.cli.output import print_json, print_table, print_text
    from specstar.cli.target import load_spec

    found, cancelled = anyio.run(_look, load_spec(target), name, job_id, cancel)
    values: dict[str, Any] = {key: getattr(found, key) for key in found.__struct_fields__}
    if json:
        shown = {"job": msgspec.to_builtins(values)}
        print_json(shown | {"cancelled": cancelled} if cancel else shown)
    else:
        traceback = values.pop("traceback")
        if not found.headers:
            del values["headers"]
        print_table(("field", "value"), [(key, _text(value)) for key, value in values.items() if value is not None])
        if traceback:
            print_text(f"\n{traceback.rstrip()}")
        if cancel:
            print_text(f"\ncancelled: {'yes' if cancelled else 'no, it had ended'}")
    return 0 if cancelled or not cancel else 1


async def _look(spec: SpecStar, name: str, job_id: str, cancel: bool) -> tuple[Job[Any], bool]:
    from specstar.cli.jobs import refuse_state_in_memory

    queue = spec.get_job_queue(name)
    refuse_state_in_memory(spec, queue)
    async with spec:
        cancelled = cancel and await queue.cancel(job_id)
        return await queue.get(job_id), cancelled


def _text(value: Any) -> str:
    import msgspec

    if isinstance(value, str):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds")
    return msgspec.json.encode(value).decode()
