"""Jobs: on RabbitMQ beside the raw driver and other libraries, and in this process."""

from __future__ import annotations

from benchmarks.case import Case, Entry, Scale, Suite, Target

__all__ = ["rabbitmq", "simple"]

_POOL = 8
_ALL = ("aiormq", "aio-pika", "taskiq", "FastStream", "dramatiq", "celery", "PgQueuer")


def rabbitmq(scale: Scale) -> Suite:
    """One broker for all, PostgreSQL for the state and for PgQueuer."""
    mq = {"type": "rabbitmq", "options": {"amqp_url": "{AMQP_URL}"}}
    memory = {"type": "memory"}
    postgres = {
        "type": "postgres",
        "options": {"dsn": "{POSTGRES_DSN}", "table_prefix": "jobs_", "pool_max_size": _POOL},
    }
    common = {"jobs": scale.jobs, "pool_size": _POOL}
    slower = {**common, "jobs": max(500, scale.jobs // 4)}
    versions = ("aiormq", "asyncpg")
    faster = tuple(Target(against=name, at_least=1) for name in _ALL[1:])
    stored_faster = tuple(Target(entry="specstar, state in PostgreSQL", against=name, at_least=1) for name in _ALL[1:])
    return Suite(
        name="rabbitmq",
        servers=("rabbitmq", "postgres"),
        entries=(
            Entry(
                name="specstar",
                cls="jobs_specstar:SpecstarJobs",
                setting={
                    **common,
                    "backend": {"mq": mq, "meta": memory, "resource": memory},
                    "keep_state": False,
                    "distributions": versions,
                },
                ours=True,
            ),
            Entry(
                name="specstar, state in PostgreSQL",
                cls="jobs_specstar:SpecstarJobs",
                setting={
                    **common,
                    "backend": {"mq": mq, "meta": postgres, "resource": postgres},
                    "keep_state": True,
                    "distributions": versions,
                },
                ours=True,
            ),
            Entry(name="aiormq", cls="jobs_aiormq:RawAiormq", setting=common),
            Entry(name="aio-pika", cls="jobs_aio_pika:AioPika", environment="rivals", quick=False, setting=common),
            Entry(name="taskiq", cls="jobs_taskiq:Taskiq", environment="rivals", setting=slower),
            Entry(
                name="FastStream", cls="jobs_faststream:FastStream", environment="rivals", quick=False, setting=slower
            ),
            Entry(name="dramatiq", cls="jobs_dramatiq:Dramatiq", environment="rivals", setting=slower),
            Entry(name="celery", cls="jobs_celery:CeleryJobs", environment="rivals", quick=False, setting=slower),
            Entry(name="PgQueuer", cls="jobs_pgqueuer:PgQueuer", environment="rivals", setting=common),
        ),
        cases=(
            Case(
                operation="enqueue",
                title="enqueue, each confirmed",
                callers=64,
                unit="jobs/s",
                entries=("specstar", "specstar, state in PostgreSQL", *_ALL),
                targets=(Target(against="aiormq", at_least=1.8), *faster),
            ),
            Case(
                operation="enqueue_many",
                title="enqueue_many, 500 a call (aiormq: 64 callers, one each)",
                callers=1,
                unit="jobs/s",
                entries=("specstar", "specstar, state in PostgreSQL", "aiormq"),
                targets=(Target(against="aiormq", at_least=2.5),),
            ),
            Case(
                operation="drain",
                title="drain, handler that does nothing",
                callers=1,
                unit="jobs/s",
                entries=("specstar", "specstar, state in PostgreSQL", *_ALL),
                targets=(
                    Target(against="aiormq", at_least=1.2),
                    Target(entry="specstar, state in PostgreSQL", against="aiormq", at_least=0.5),
                    *stored_faster,
                ),
            ),
            Case(
                operation="latency",
                title="enqueue to handler start, light load, p50",
                callers=1,
                unit="ms",
                better="lower",
                entries=("specstar", "specstar, state in PostgreSQL", *_ALL),
                targets=(Target(against="aiormq", at_most=2),),
            ),
        ),
        notes=(
            (
                "All on RabbitMQ: durable classic queue, persistent messages, publisher confirms, an ack after the handler, 200 "
                "jobs in flight. Switched on where it is not the default: confirms in dramatiq and celery, late acks in celery, "
                "persistent messages in FastStream, classic queues in taskiq."
            ),
            "dramatiq and celery are synchronous: 8 threads send. Their workers: 2 threads, and the pool `solo`.",
            (
                "PgQueuer keeps its jobs in PostgreSQL, where each is also its state; the others keep no state. specstar is "
                "shown without state (`keep_state=False`) and with each job's record in PostgreSQL."
            ),
            (
                "Workers run in the process that measures; drains begin with all jobs in the queue "
                f"({scale.jobs:,}, {slower['jobs']:,} for the slower libraries)."
            ),
        ),
    )


def simple(scale: Scale) -> Suite:
    """The in-process queue."""
    memory = {"type": "memory"}
    backend = {"mq": {"type": "simple"}, "meta": memory, "resource": memory}
    common = {"jobs": scale.jobs * 2, "backend": backend}
    return Suite(
        name="simple",
        entries=(
            Entry(name="specstar", cls="jobs_specstar:SpecstarJobs", setting={**common, "keep_state": True}, ours=True),
            Entry(
                name="specstar, no state",
                cls="jobs_specstar:SpecstarJobs",
                setting={**common, "keep_state": False},
                ours=True,
            ),
            Entry(name="asyncio.Queue", cls="jobs_asyncio_queue:AsyncioQueue", setting=common),
        ),
        cases=(
            Case(
                operation="through",
                title="enqueue and drain, state in memory",
                callers=64,
                unit="jobs/s",
                entries=("specstar", "specstar, no state", "asyncio.Queue"),
                targets=(Target(at_least=20_000),),
            ),
        ),
        notes=("asyncio.Queue keeps no state and retries nothing: it is the floor of the cost.",),
    )
