"""SpecStar itself: declaring, configuring in every order, checking and closing."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from msgspec import Meta, Struct

from specstar import BackendBinding, BackendConfig, ConnectionProfile, Job, JobStatus, SpecStar
from specstar import sync as blocking
from specstar.errors import (
    BackendUnavailable,
    ConfigError,
    DecodeError,
    InvalidInputError,
    NotConfiguredError,
    QueryError,
    UsageError,
)
from specstar.message_queue import RabbitMQMessageQueueFactory, SimpleMessageQueueFactory, WorkerStop
from specstar.resource_manager import (
    BoundStorageFactory,
    DiskStorageFactory,
    MemoryStorageFactory,
    PostgresDiskS3StorageFactory,
    PostgresDiskStorageFactory,
    PostgresS3StorageFactory,
    PostgresStorageFactory,
    S3StorageFactory,
)

MEMORY: dict[str, Any] = {"meta": {"type": "memory"}, "mq": {"type": "simple"}}


class User(Struct):
    name: str
    age: int = 0


async def test_models_and_jobs_may_be_declared_before_or_after_configuring() -> None:
    spec = SpecStar()
    before = spec.add_model(User, name="before")

    @spec.job
    async def first(job: Job[User]) -> None:
        return None

    spec.configure(backend=MEMORY)
    after = spec.add_model(User, name="after")

    @spec.job(name="second")
    def second(job: Job[User]) -> None:
        return None

    async with spec:
        for manager in (before, after):
            info = await manager.create(User("a"))
            assert (await manager.get(info.resource_id)).data == User("a")
        for queue in (first, second):
            assert (await queue.enqueue(User("a"))).job_id


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("name", 5), ("name", "\0"), ("schema_version", 5), ("indexed_fields", 5), ("storage_factory", 5)]
    + [("max_payload_bytes", wrong) for wrong in (-1, 0, "x", None, True)],
)
def test_a_declaration_of_the_wrong_type_names_the_parameter(field: str, wrong: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SpecStar().add_model(User, **{field: wrong})
    assert caught.value.field == field


async def test_an_iterable_of_payloads_is_a_list_of_them_and_a_text_is_none() -> None:
    spec = SpecStar()
    spec.configure(backend=MEMORY)
    wrong: Any

    @spec.job
    async def work(job: Job[str]) -> None:
        return None

    async with spec:
        assert len(await work.enqueue_many(letter for letter in "abc")) == 3
        for wrong in ("abc", None):
            with pytest.raises(InvalidInputError, match="payloads takes a list"):
                await work.enqueue_many(wrong)
        for wrong in ("abc", 5):
            with pytest.raises(InvalidInputError, match="job_ids takes a list"):
                await work.purge_dead(wrong)
            with pytest.raises(InvalidInputError, match="job_ids takes a list"):
                await work.requeue_dead(wrong)


class Bounded(Struct):
    number: Annotated[int, Meta(ge=-(2**63), lt=2**63)] = 0


def test_a_bound_that_msgspec_cannot_hold_is_said_when_the_type_is_declared() -> None:
    async def work(job: Job[Bounded]) -> None:
        return None

    spec = SpecStar()
    with pytest.raises(QueryError, match="int64"):
        spec.add_model(Bounded, indexed_fields=["number"])
    with pytest.raises(InvalidInputError, match="int64"):
        spec.add_model(Bounded)
    with pytest.raises(InvalidInputError, match="int64"):
        spec.add_job(Bounded, work, name="work")


async def test_before_configuring_every_use_says_so() -> None:
    spec = SpecStar()
    users = spec.add_model(User)
    with pytest.raises(NotConfiguredError, match=r"spec\.configure"):
        await users.create(User("a"))
    with pytest.raises(NotConfiguredError, match=r"spec\.configure"):
        await spec.blobs.put(b"a")
    with pytest.raises(NotConfiguredError, match=r"spec\.configure"):
        await spec.check()


async def test_without_mq_enqueue_says_how_to_add_one() -> None:
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}})

    @spec.job
    async def work(job: Job[User]) -> None:
        return None

    async with spec:
        with pytest.raises(NotConfiguredError, match=r'"mq": \{"type": "simple"}'):
            await work.enqueue(User("a"))
        with pytest.raises(NotConfiguredError, match="mq"):
            await spec.run_workers()


async def test_configuring_again_awaited_closes_what_was_open(tmp_path: Path) -> None:
    spec = SpecStar()
    users = spec.add_model(User)
    await spec.configure(storage_factory=DiskStorageFactory(tmp_path / "one"))
    first = await users.create(User("one"))
    connection = spec._gate.connections.opened()[0]
    await spec.configure(storage_factory=DiskStorageFactory(tmp_path / "two"))
    assert connection.opened is None
    assert not await users.exists(first.resource_id)
    await spec.configure(storage_factory=DiskStorageFactory(tmp_path / "one"))
    assert await users.exists(first.resource_id)
    await spec.aclose()


async def test_a_forgotten_await_over_open_connections_is_refused_until_it_is_made_good(tmp_path: Path) -> None:
    spec = SpecStar()
    users = spec.add_model(User)
    spec.configure(storage_factory=DiskStorageFactory(tmp_path / "one"))
    info = await users.create(User("one"))
    configured = spec.configure(storage_factory=DiskStorageFactory(tmp_path / "two"))
    with pytest.raises(UsageError, match=r"await spec\.configure"):
        await users.get(info.resource_id)
    await configured
    assert not await users.exists(info.resource_id)
    await spec.aclose()


def test_over_open_connections_and_without_a_loop_a_plain_statement_is_refused(tmp_path: Path) -> None:
    spec = blocking.SpecStar()
    users = spec.add_model(User)
    spec.configure(storage_factory=DiskStorageFactory(tmp_path / "one"))
    users.create(User("a"))
    with pytest.raises(UsageError, match=r"await spec\.configure"):
        spec._inner.configure(storage_factory=DiskStorageFactory(tmp_path / "two"))
    spec.configure(storage_factory=DiskStorageFactory(tmp_path / "two"))
    assert users.count() == 0
    spec.close()


def test_what_cannot_be_configured_together_is_refused() -> None:
    spec = SpecStar()
    with pytest.raises(ConfigError, match=r"backend= .* or storage_factory="):
        spec.configure()
    with pytest.raises(ConfigError, match="not both"):
        spec.configure(backend=MEMORY, storage_factory=MemoryStorageFactory())
    wrong: Any = MEMORY
    with pytest.raises(ConfigError, match="storage_factory= is a StorageFactory, not dict; a mapping goes to backend="):
        spec.configure(storage_factory=wrong)
    with pytest.raises(ConfigError, match="message_queue_factory= is a BoundMessageQueueFactory, not str"):
        spec.configure(backend={}, message_queue_factory=str(wrong))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="binds mq already"):
        spec.configure(backend=MEMORY, message_queue_factory=SimpleMessageQueueFactory())
    with pytest.raises(ConfigError, match="memori"):
        spec.configure(backend={"meta": {"type": "memori"}})


async def test_a_factory_takes_every_option_of_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path / "data"))
    disk = {"type": "disk", "options": {"rootdir": "$PLACE", "reader_threads": 1}}
    factory = BoundStorageFactory.from_config({"meta": disk, "resource": disk})
    spec = SpecStar()
    spec.configure(backend=MEMORY)
    users = spec.add_model(User, storage_factory=factory)
    async with spec:
        await users.create(User("a"))
    assert (tmp_path / "data" / "specstar.sqlite3").exists()
    with pytest.raises(ConfigError, match=r"^mq: a storage factory has no queue"):
        BoundStorageFactory.from_config(MEMORY)
    with pytest.raises(ConfigError, match=r"^meta\.type: unknown backend type 'dsk' \(did you mean 'disk'\?\)$"):
        BoundStorageFactory.from_config({"meta": {"type": "dsk"}})


async def test_check_reports_every_role(tmp_path: Path) -> None:
    spec = SpecStar()
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path / "data")}}
    broken = {"type": "disk", "options": {"rootdir": "/dev/null/nothing"}}
    spec.configure(backend={"meta": disk, "resource": {"type": "memory"}, "blob": broken, "mq": {"type": "simple"}})
    async with spec:
        reports = {report.role: report for report in await spec.check()}
        assert list(reports) == ["meta", "resource", "blob", "mq"]
        assert [reports[role].ok for role in ("meta", "resource", "blob", "mq")] == [True, True, False, True]
        assert "SQLite" in f"{reports['meta'].server_version} {reports['meta'].detail}"
        assert reports["meta"].latency_seconds is not None
        assert reports["blob"].problem is not None
        assert "/dev/null: " in reports["blob"].problem


async def test_check_ends_in_time_where_servers_do_not_answer() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        s3 = {"bucket": "bucket", "endpoint_url": f"http://{place}", "access_key_id": "k", "secret_access_key": "s"}
        spec = SpecStar()
        spec.configure(
            backend={
                "meta": {"type": "postgres", "options": {"dsn": f"postgresql://user@{place}/db"}},
                "resource": {"type": "s3", "options": s3},
                "mq": {"type": "rabbitmq", "options": {"amqp_url": f"amqp://guest:guest@{place}/"}},
            }
        )
        async with spec:
            reports = {report.role: report for report in await spec.check(timeout=0.5)}
    for role in ("meta", "resource", "mq"):
        assert not reports[role].ok
        assert str(reports[role].problem).endswith(": no answer within 0.5 s"), reports[role].problem


async def test_check_reports_the_storage_of_a_model_too(tmp_path: Path) -> None:
    spec = SpecStar()
    spec.configure(backend=MEMORY)
    spec.add_model(User)
    spec.add_model(User, name="tenant", storage_factory=DiskStorageFactory(tmp_path / "data"))
    spec.add_model(User, name="gone", storage_factory=DiskStorageFactory("/dev/null/nothing"))
    async with spec:
        reports = await spec.check()
        found = [(report.model, report.role, report.backend, report.ok) for report in reports]
        assert found[:3] == [(None, role, "memory", True) for role in ("meta", "resource", "blob")]
        own = [report for report in found if report[0] is not None]
        assert own == [
            ("tenant", "meta", "disk", True),
            ("tenant", "resource", "disk", True),
            ("gone", "meta", "disk", False),
            ("gone", "resource", "disk", False),
        ]
        assert "/dev/null: " in str(reports[-1].problem)


async def test_check_without_a_configuration_reports_the_models(tmp_path: Path) -> None:
    spec = SpecStar()
    spec.add_model(User, storage_factory=DiskStorageFactory(tmp_path / "data"))
    async with spec:
        assert [(report.model, report.ok) for report in await spec.check()] == [("User", True), ("User", True)]


async def test_an_idle_role_opens_nothing(tmp_path: Path) -> None:
    spec = SpecStar()
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path / "data")}}
    blob = {"type": "disk", "options": {"rootdir": str(tmp_path / "blobs")}}
    spec.configure(backend={"meta": disk, "resource": disk, "blob": blob})
    users = spec.add_model(User)
    assert not (tmp_path / "data").exists()
    async with spec:
        await users.create(User("a"))
        assert (tmp_path / "data").exists()
        assert not (tmp_path / "blobs").exists()
        assert len(spec._gate.connections.opened()) == 1


async def test_equal_connections_are_shared_across_roles_and_models(tmp_path: Path) -> None:
    spec = SpecStar()
    spec.configure(
        backend=BackendConfig(
            connections={"local": ConnectionProfile(type="disk", options={"rootdir": str(tmp_path)})},
            meta=BackendBinding(use="local"),
            resource=BackendBinding(use="local"),
            blob=BackendBinding(use="local"),
        )
    )
    async with spec:
        for name in ("a", "b", "c"):
            await spec.add_model(User, name=name).create(User(name))
        await spec.blobs.put(b"x")
        assert len(spec._gate.connections.opened()) == 1


async def test_one_model_may_have_a_storage_of_its_own(tmp_path: Path) -> None:
    spec = SpecStar()
    shared = spec.add_model(User, name="users")
    tenant = spec.add_model(User, name="tenant", storage_factory=DiskStorageFactory(tmp_path / "tenant"))
    spec.configure(backend=MEMORY)
    async with spec:
        await tenant.create(User("t"), resource_id="t")
        await shared.create(User("s"), resource_id="s")
        assert not await shared.exists("t")
    other = SpecStar()
    again = other.add_model(User, name="tenant")
    other.configure(storage_factory=DiskStorageFactory(tmp_path / "tenant"))
    async with other:
        assert await again.exists("t")


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_model_on_an_asyncio_driver_may_join_what_is_open_on_trio(anyio_backend: str) -> None:
    """The home moves to a loop of its own, and what is in memory goes along."""
    spec = SpecStar()
    spec.configure(backend=MEMORY)
    users = spec.add_model(User)
    async with spec:
        await users.create(User("Ann"), resource_id="ann")
        far = PostgresStorageFactory("postgresql://user@127.0.0.1:9/db")
        others = spec.add_model(User, name="others", storage_factory=far)
        assert (await users.get("ann")).data == User("Ann")
        with pytest.raises(BackendUnavailable, match="cannot reach PostgreSQL"):
            await others.get("ann")
        await users.update("ann", User("Ann", 5))
        assert (await users.get("ann")).data.age == 5


def test_names_are_taken_once_and_found_again() -> None:
    spec = SpecStar()
    users = spec.add_model(User, indexed_fields=["age"])
    assert spec.add_model(User, indexed_fields=["age"]) is users
    assert spec.get_resource_manager(User) is users
    assert spec.get_resource_manager("User") is users
    with pytest.raises(InvalidInputError, match="declared already"):
        spec.add_model(User)
    with pytest.raises(NotConfiguredError, match="did you mean 'User'"):
        spec.get_resource_manager("Users")
    with pytest.raises(QueryError, match="did you mean 'age'"):
        spec.add_model(User, name="x", indexed_fields=["agee"])
    for name in ("", "a\0b", "x" * 513, "\ud800"):
        with pytest.raises(InvalidInputError):
            spec.add_model(User, name=name)
    spec.add_model(User, name="twin")
    with pytest.raises(InvalidInputError, match="several names"):
        spec.get_resource_manager(User)

    @spec.job
    async def work(job: Job[User]) -> None:
        return None

    with pytest.raises(InvalidInputError, match="declared already"):
        spec.add_job(User, work.handler, name="work")
    with pytest.raises(NotConfiguredError, match="did you mean 'work'"):
        spec.get_job_queue("wrok")


def test_a_type_without_a_name_of_its_own_is_found_as_it_was_declared() -> None:
    class Cat(Struct, tag=True):
        name: str

    class Dog(Struct, tag=True):
        name: str

    def either() -> Any:
        return Cat | Dog

    spec = SpecStar()
    pets = spec.add_model(either(), name="pets")
    assert spec.get_resource_manager(either()) is pets
    unknown: Any
    for unknown in (int | str, list[int], None):
        with pytest.raises(NotConfiguredError, match="is declared"):
            spec.get_resource_manager(unknown)
    spec.add_model(either(), name="animals")
    with pytest.raises(InvalidInputError, match=r"several names \(animals, pets\)"):
        spec.get_resource_manager(either())


def test_a_type_that_cannot_be_a_model_is_refused_at_once() -> None:
    class Ambiguous(Struct):
        values: set[int] | list[int]

    class Unresolved(Struct):
        value: Nowhere  # type: ignore[name-defined]  # noqa: F821

    for model in (Ambiguous, Unresolved):
        with pytest.raises(InvalidInputError, match="cannot be a model"):
            SpecStar().add_model(model)


SECRET = "pass-7f3a"


FACTORIES: list[Callable[[], Any]] = [
        MemoryStorageFactory,
        lambda: DiskStorageFactory("./data"),
        lambda: PostgresStorageFactory(connection_string=f"postgresql://user:{SECRET}@host:5432/appdb"),
        lambda: PostgresDiskStorageFactory(connection_string=f"postgresql://u:{SECRET}@host/db", rootdir="./data"),
        lambda: PostgresS3StorageFactory(
            connection_string=f"postgresql://u:{SECRET}@host/db", s3_bucket="bucket", s3_secret_access_key=SECRET,
            s3_access_key_id="key", s3_region="eu-west-1", s3_endpoint_url="http://127.0.0.1:1", s3_client_kwargs={},
        ),
        lambda: PostgresDiskS3StorageFactory(
            connection_string=f"postgresql://u:{SECRET}@host/db", rootdir="./data", s3_bucket="my-blob-bucket"
        ),
        lambda: S3StorageFactory("bucket", access_key_id="key", secret_access_key=SECRET, auto_sync=False, sync_interval=5),
        lambda: RabbitMQMessageQueueFactory(f"amqp://u:{SECRET}@host/", queue_prefix="x:", max_retries=1),
    ]  # fmt: skip


@pytest.mark.parametrize("factory", FACTORIES, ids=range(len(FACTORIES)))
def test_the_lower_level_factories_check_their_arguments_like_options_and_show_no_secret(factory: Any) -> None:
    made = factory()
    assert SECRET not in repr(made)
    bindings = made.bindings.values() if hasattr(made, "bindings") else [made.binding]
    assert all(SECRET not in repr(bound) for bound in bindings)


def test_wrong_arguments_of_a_lower_level_factory_are_config_errors() -> None:
    with pytest.raises(ConfigError, match="rootdir"):
        DiskStorageFactory("")
    with pytest.raises(ConfigError, match="dsn"):
        PostgresStorageFactory(connection_string="")
    with pytest.raises(ConfigError, match=r"max_retrys.*max_retries"):
        RabbitMQMessageQueueFactory(max_retrys=3)
    with pytest.raises(ConfigError, match="max_retries"):
        SimpleMessageQueueFactory(max_retries=-1)


REFERENCE_LOWER_LEVEL = """
from specstar import spec
from specstar.message_queue import RabbitMQMessageQueueFactory
from specstar.resource_manager import PostgresDiskS3StorageFactory

spec.configure(
    storage_factory=PostgresDiskS3StorageFactory(
        connection_string="postgresql://user:pass@host:5432/appdb",
        rootdir="./data",
        s3_bucket="my-blob-bucket",
    ),
    message_queue_factory=RabbitMQMessageQueueFactory(),
)
import sys
drivers = {"asyncpg", "aioboto3", "aiobotocore", "botocore", "aiormq", "apsw", "trio"}
print(sorted(drivers & {name.partition(".")[0] for name in sys.modules}))
"""


def test_the_lower_level_example_of_the_reference_runs_and_loads_no_driver(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE_LOWER_LEVEL], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert list(tmp_path.iterdir()) == []


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, specstar; print(len([n for n in sys.modules if n.startswith(('anyio', 'asyncio', 'rich', 'apsw'))]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


async def test_blobs_in_memory_beside_durable_resources_are_warned_of_when_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk})
    users = spec.add_model(User)
    async with spec:
        await users.create(User("Ann"))
        assert caplog.records == []
        await spec.blobs.put(b"some bytes")
        await spec.blobs.put(b"more bytes")
    assert [record.getMessage() for record in caplog.records] == [
        "resources are on disk, but blobs are in memory, and gone when the process ends: bind blob too"
    ]


async def test_half_a_store_is_warned_of_when_configured(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SpecStar().configure(backend={"meta": {"type": "disk", "options": {"rootdir": str(tmp_path)}}})
    assert "the payloads of resources are in memory" in caplog.text


async def test_ids_are_a_list_and_expected_revisions_are_ids() -> None:
    spec = SpecStar()
    spec.configure(backend=MEMORY)
    users: Any = spec.add_model(User)

    async def handle(job: Job[User]) -> None: ...

    queue: Any = spec.add_job(User, handle)
    async with spec:
        made = await users.create(User("Ann"))
        for call in (
            users.get_many("abc"),
            users.create_many([User("x")], resource_ids="a"),
            queue.requeue_dead("abc"),
            queue.purge_dead("abc"),
        ):
            with pytest.raises(InvalidInputError, match="takes a list, not one str"):
                await call
        for call in (
            users.update(made.resource_id, User("Bo"), expected_revision_id=made),
            users.permanently_delete(made.resource_id, expected_revision_id=made),
        ):
            with pytest.raises(InvalidInputError, match="expected_revision_id must be a str"):
                await call


async def test_a_job_in_place_of_its_id_and_a_name_in_place_of_a_queue_are_told() -> None:
    spec, face = SpecStar(), blocking.SpecStar()

    async def handle(job: Job[User]) -> None: ...

    queue: Any = spec.add_job(User, handle)
    face.add_job(User, handle)
    spec.configure(backend=MEMORY)
    face.configure(backend=MEMORY)

    async def run_blocking(**options: Any) -> None:
        await anyio.to_thread.run_sync(functools.partial(face.run_workers, **options))

    run: Any
    for run in (spec.run_workers, run_blocking):
        for options, told in (
            ({"queues": ["handle"]}, "'handle'"),
            ({"queues": "handle"}, "takes a list, not one str"),
            ({"queues": queue}, "takes a list, not one JobQueue"),
            ({"stop": anyio.Event()}, "stop is a WorkerStop of specstar.message_queue"),
        ):
            with pytest.raises(InvalidInputError, match=told):
                await run(**options)
    async with spec:
        job = await queue.enqueue(User("Ann"))
        for call in (queue.wait, queue.get, queue.cancel):
            with pytest.raises(InvalidInputError, match="job_id must be a str, not Job"):
                await call(job)
        with pytest.raises(InvalidInputError, match="at most 255 are allowed"):
            await queue.enqueue(User("Ann"), idempotency_key="k" * 2000)


def test_a_model_without_a_name_and_one_declared_otherwise_are_refused() -> None:
    spec = SpecStar()
    union: Any = int | str
    with pytest.raises(InvalidInputError, match="give it a name="):
        spec.add_model(union)
    users = spec.add_model(User, schema_version="1")
    assert spec.add_model(User, schema_version="1") is users
    with pytest.raises(InvalidInputError, match="declared already"):
        spec.add_model(User, schema_version="2")


async def test_an_earlier_job_of_a_key_is_returned_though_its_result_has_another_type(tmp_path: Path) -> None:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    found = []
    for result in (int, list[str]):
        spec = SpecStar()
        spec.configure(backend={"meta": disk, "resource": disk, "mq": {"type": "simple"}})

        async def handle(job: Job[User]) -> Any:
            return 5

        queue = spec.add_job(User, handle, result_type=result)
        async with spec:
            sent = await queue.enqueue(User("Ann"), idempotency_key="one")
            found.append(sent.job_id)
            if result is int:
                async with anyio.create_task_group() as group:
                    stop = WorkerStop()
                    group.start_soon(functools.partial(spec.run_workers, stop=stop, handle_signals=False))
                    assert (await queue.wait(sent.job_id, timeout=10)).result == 5
                    stop.set()
            else:
                assert (sent.status, sent.result) == (JobStatus.succeeded, None)
                with pytest.raises(DecodeError, match=r"the result of job .* does not decode"):
                    await queue.get(sent.job_id)
                # Which the others of a search need not suffer for.
                other = await queue.enqueue(User("Bob"))
                assert [job.job_id for job in await queue.search()] == [other.job_id]
                with pytest.raises(InvalidInputError, match="no status of a job: 'over'"):
                    await queue.search(status="over")  # type: ignore[arg-type]
    assert found[0] == found[1]


def test_closing_while_another_thread_runs_workers_waits_for_nothing_that_waits_for_it() -> None:
    spec = blocking.SpecStar()
    spec.configure(backend={"mq": {"type": "simple"}})
    spec._inner._gate.close_timeout = 60.0

    @spec.job
    def handle(job: Job[User]) -> None: ...

    job = handle.enqueue(User("Ann"))
    threads = [threading.Thread(target=run, daemon=True) for run in (spec.run_workers, spec.close)]
    threads[0].start()
    handle.wait(job.job_id, timeout=20)
    threads[1].start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)


async def test_garbage_is_collected_where_every_model_has_a_storage_of_its_own(tmp_path: Path) -> None:
    spec = SpecStar()
    with pytest.raises(NotConfiguredError):
        await spec.collect_garbage()
    spec.add_model(User, storage_factory=DiskStorageFactory(tmp_path))
    async with spec:
        assert await spec.collect_garbage() == {"User": 0}
