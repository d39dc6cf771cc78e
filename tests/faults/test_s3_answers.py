"""A scripted S3 server gives every bad answer there is, at random, while several programs write one metadata object."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from specstar.errors import BackendError, BackendUnavailable, OutcomeUnknownError, RevisionConflictError
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.managed_load import Entry, ManagedLoad
from tests.faults.tools.s3_program import CALL_LIMIT, program, s3_backend
from tests.faults.tools.scripted_s3 import Fault, ScriptedS3

pytestmark = pytest.mark.timeout(1800)

KEY = "bucket/meta/Entry.sqlite"
FAULTS = [
    Fault(503, "SlowDown"),
    Fault(503, "ServiceUnavailable"),
    Fault(500, "InternalError"),
    Fault(500, "InternalError", when="after"),
    Fault(502, ""),
    Fault(504, ""),
    Fault(400, "RequestTimeout"),
    Fault(429, "TooManyRequests"),
    Fault(),
    Fault(when="after"),
    Fault(delay=1.8),
    Fault(delay=0.3),
    Fault(cut=True),
]
# What only conditional writes are answered with.
CONFLICTS = [
    Fault(409, "ConditionalRequestConflict"),
    Fault(409, "ConditionalRequestConflict", when="after"),
    Fault(409, "OperationAborted"),
    Fault(412, "PreconditionFailed"),
    Fault(412, "PreconditionFailed", when="after"),
    Fault(404, "NoSuchKey"),
    Fault(404, "NoSuchKey", when="after"),
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Script:
    """Every so-manieth request goes wrong, once switched on."""

    def __init__(self, chance: random.Random, figures: Figures) -> None:
        self.chance = chance
        self.figures = figures
        self.rate = 0.0

    def __call__(self, method: str, key: str, number: int) -> Fault | None:
        if self.chance.random() >= self.rate:
            return None
        self.figures.faults += 1
        faults = FAULTS + CONFLICTS if method == "PUT" and key == KEY else FAULTS
        return self.chance.choice(faults)


@pytest.mark.parametrize("reload", [True, False])
async def test_bad_answers_at_random(figures: Figures, reload: bool) -> None:
    figures.name = "S3: bad answers at random, two writers"
    async with ScriptedS3() as server:
        backend = s3_backend(server.endpoint_url, "bucket", auto_reload_on_conflict=reload)
        async with program(backend) as one, program(backend) as two, program(backend) as late:
            load = ManagedLoad(
                [one.users, two.users], figures, limit=CALL_LIMIT, pause=0.1, callers=8, conflicts=not reload
            )
            script = Script(load.chance, figures)
            async with load.running():
                await load.progress(CALL_LIMIT)
                server.script = script
                for _ in range(fault_count(1, share=0.05)):
                    script.rate = load.chance.choice([0.1, 0.2, 0.5])
                    await asyncio.sleep(1.0)
                    script.rate = 0
                    await load.progress(CALL_LIMIT)
            await load.verify(late.users)


async def test_a_push_that_landed_before_the_server_went_is_not_called_refused(figures: Figures) -> None:
    """The first request on a kept connection is carried out and not answered; every later one finds nobody."""
    figures.name = "S3: server gone after a push landed"
    async with ScriptedS3() as server, program(s3_backend(server.endpoint_url, "bucket")) as one:
        await one.users.create(Entry(0, "first"), resource_id="first")

        def landed_and_gone(method: str, key: str, number: int) -> Fault | None:
            if (method, key) != ("PUT", KEY):
                return None
            server.stop_listening()
            server.script = lambda method, key, number: Fault()
            return Fault(when="after")

        server.script = landed_and_gone
        with figures.stall(), pytest.raises(OutcomeUnknownError):
            await one.users.create(Entry(0, "second"), resource_id="second")
        figures.faults += 1
        server.script = lambda method, key, number: None
        await server.listen_again()
        assert (await one.users.get("second")).data.op == "second"
        figures.acknowledged += 1


async def test_a_server_that_stops_to_honour_conditions_is_not_written_to(figures: Figures) -> None:
    """A program that starts finds out, before it can overwrite what others wrote."""
    figures.name = "S3: conditions ignored"
    async with ScriptedS3() as server:
        backend = s3_backend(server.endpoint_url, "bucket")
        async with program(backend) as first:
            await first.users.create(Entry(0, "first"), resource_id="first")
            held = server.objects[KEY]
            server.honours_conditions = False
            for _ in range(fault_count(2, share=0.02)):
                async with program(backend) as second:
                    with figures.stall(), pytest.raises(BackendError, match="enable_locking"):
                        await second.users.create(Entry(1, "second"))
                    figures.faults += 1
                    assert (await second.users.get("first")).data.op == "first"
            assert server.objects[KEY] is held
            figures.acknowledged += 1


@pytest.mark.parametrize("stored", ["before", "nothing yet"])
async def test_a_wrong_clock_is_named_and_passes(figures: Figures, stored: str) -> None:
    figures.name = "S3: clock of the client wrong"

    def skewed(method: str, key: str, number: int) -> Fault | None:
        figures.faults += 1
        # The answer to a HEAD has no body: no code says what is wrong, only the server's clock.
        return Fault(403, "RequestTimeTooSkewed", headers={"Date": "Mon, 01 Jan 2001 00:00:00 GMT"})

    async with ScriptedS3() as server, program(s3_backend(server.endpoint_url, "bucket")) as one:
        if stored == "before":
            await one.users.create(Entry(0, "first"), resource_id="first")
            figures.acknowledged += 1
        server.script = skewed
        for call in (
            lambda: one.users.get("first"),
            lambda: one.users.create(Entry(0, "x")),
            lambda: one.blobs.put(b"x"),
        ):
            with figures.stall(), pytest.raises(BackendError, match="clock of this machine") as caught:
                await call()
            assert not isinstance(caught.value, BackendUnavailable)
        server.script = lambda method, key, number: None
        await one.users.create(Entry(0, "after"), resource_id="after")
        figures.acknowledged += 1
        assert (await one.users.get("after")).data.op == "after"


async def test_an_object_that_was_deleted_or_replaced_is_never_written_over(figures: Figures) -> None:
    figures.name = "S3: metadata object deleted or replaced"
    async with ScriptedS3() as server:
        backend = s3_backend(server.endpoint_url, "bucket")
        for foreign in (None, b"not a database", b"SQLite format 3\0" + bytes(4096)):
            server.objects.clear()
            async with program(backend) as one:
                await one.users.create(Entry(0, "first"), resource_id="first")
                if foreign is None:
                    del server.objects[KEY]
                else:
                    server.put(KEY, foreign)
                figures.faults += 1
                outcomes = await asyncio.gather(
                    *(one.users.create(Entry(0, f"{number}")) for number in range(8)),
                    one.users.update("first", Entry(0, "changed")),
                    return_exceptions=True,
                )
                assert all(isinstance(outcome, BackendError | RevisionConflictError) for outcome in outcomes), outcomes
                found = server.objects.get(KEY)
                assert (None if found is None else found.data) == foreign
                with contextlib.suppress(BackendError):
                    await one.spec.aclose()
