"""Every public coroutine, cancelled at every await, its own and those of the work done for it.

After each: what it changes is as before or as after, whole; its neighbours in the same batch have their answers; the next
calls work at once; and in the end nothing is left open. Long runs take every point, short ones a few of each call.
"""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path
from typing import Any

import anyio
import pytest

from specstar.errors import ResourceNotFoundError
from tests.faults.cancellation.blob_cases import BLOB_CASES, LARGE_BLOB_CASE
from tests.faults.cancellation.job_cases import JOB_CASES
from tests.faults.cancellation.place import Case, Place, User
from tests.faults.cancellation.resource_cases import RESOURCE_CASES
from tests.faults.cancellation.spec_cases import SPEC_CASES, use
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.bindings import Backend, configuration
from tests.faults.tools.leaks import Held, nothing_left
from tests.faults.tools.stepping import Attempt, Way, run_stepped

FAMILIES = {
    "resources": RESOURCE_CASES,
    "blobs": BLOB_CASES,
    "blobs in parts": [LARGE_BLOB_CASE],
    "jobs": JOB_CASES,
    "spec": SPEC_CASES,
}
HERE = ["resources", "blobs", "jobs", "spec"]
# The families that each backend is about, and how many cases of them a short run takes.
OVER_NETWORK = {
    ("postgres", "resources"): 10,
    ("postgres", "spec"): 2,
    ("s3", "resources"): 1,
    ("s3", "blobs"): 1,
    ("s3", "blobs in parts"): 1,
    ("s3", "spec"): 1,
    ("postgres/rabbitmq", "jobs"): 2,
    ("postgres/rabbitmq", "spec"): 2,
}
WAYS = ["task", "scope", "away"]
"""How a caller is cancelled: see `Way`; "away": a scope, and its calls go to a loop in another thread."""
PAUSES = [0, 0, 0.00003, 0.0001, 0.001]
"""Seconds that threads get before a cancellation: none, or so that they are in the middle of something."""
# A second on a machine that does nothing else.
PROMPT_SECONDS = 5.0


class Trial:
    """One case at one place, cancelled at one point after another."""

    def __init__(self, place: Place, case: Case, way: Way, figures: Figures, rng: random.Random) -> None:
        self.rng = rng
        self.place = place
        self.case = case
        self.way = way
        self.figures = figures
        self.before: Any = None
        self.after: Any = None
        self.seen = ""

    async def attempt(self, at: int | None) -> tuple[Attempt, Any]:
        """Make the call, cancelled at this point, beside two neighbours; the attempt and what there is to see after it."""
        place, case = self.place, self.case
        subject = await case.prepare(place)
        there: Place = subject if case.own else place
        neighbours = _Neighbours(there) if not (case.alone or case.own) else None
        try:
            attempt = await run_stepped(
                lambda: case.act(place, subject),
                gate=there.spec._gate,
                at=at,
                way=self.way,
                pause=self.rng.choice(PAUSES) if at is not None else 0.0,
                before=neighbours.first if neighbours else None,
                after=neighbours.second if neighbours else None,
            )
            if attempt.error is not None:
                raise attempt.error
            with self.figures.stall(), anyio.fail_after(PROMPT_SECONDS):
                seen = await self.at_rest(subject, attempt)
                if neighbours is not None:
                    await neighbours.verify()
                    self.figures.acknowledged += 2
        finally:
            if case.own:
                await there.spec.aclose()
        return attempt, seen

    async def look(self, subject: Any) -> Any:
        return await self.case.look(self.place, subject) if self.case.look is not None else None

    async def at_rest(self, subject: Any, attempt: Attempt) -> Any:
        """What there is once the work in flight has landed: a batch that has left is not called back for one of its calls."""
        if self.case.look is None or not attempt.fired:
            return await self.look(subject)
        self.seen = f"nothing, after {attempt}"
        while True:
            with contextlib.suppress(AssertionError, ResourceNotFoundError):  # it landed between the calls of one look
                seen = await self.look(subject)
                if self.is_whole(seen, attempt):
                    return seen
                self.seen = f"{seen}, after {attempt}"
            await anyio.sleep(0.002)

    def is_whole(self, seen: Any, attempt: Attempt) -> bool:
        """As before or as after; what was answered holds."""
        if attempt.finished:
            return bool(seen == self.after)
        if not self.case.parts:
            return seen in (self.before, self.after)
        return all(part in (old, new) for part, old, new in zip(seen, self.before, self.after, strict=True))

    async def learn(self) -> int:
        """What is there before and after the call, and the number of points in it."""
        if self.case.look is not None:
            subject = await self.case.prepare(self.place)
            self.before = await self.look(subject)
            if self.case.own:
                await subject.spec.aclose()
        attempt, self.after = await self.attempt(None)
        assert attempt.finished, attempt
        return attempt.points

    async def cancelled_at(self, at: int) -> bool:
        """False if the call was over before this point."""
        attempt, _ = await self.attempt(at)
        if not attempt.fired:
            assert attempt.finished, attempt
            return False
        self.figures.faults += 1
        if attempt.finished:
            self.figures.acknowledged += 1  # it was told too late
        return True

    async def run(self, most: int, seed: int) -> None:
        """Cancel at as many points as there are, or at `most` of them."""
        at: int | None = None
        try:
            points = await self.learn()
            chosen = range(1, points + 1) if points <= most else sorted(self.rng.sample(range(1, points + 1), most))
            for at in chosen:
                if not await self.cancelled_at(at):
                    break
        except BaseException as error:
            error.add_note(
                f"{self.case.id}, cancelled by {self.way} at {at or 'no'} point; SPECSTAR_FAULTS_SEED={seed}"
            )
            error.add_note(f"before: {self.before}\nafter: {self.after}\nseen: {self.seen}")
            raise


class _Neighbours:
    """Calls in the same batches as the one that is cancelled."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.number = place.number()
        self.made = ""
        self.sent = ""

    async def first(self) -> None:
        self.made = (await self.place.users.create(User("first", self.number))).resource_id

    async def second(self) -> None:
        info = await self.place.users.create(User("second"))
        await self.place.users.update(info.resource_id, User("second", self.number))
        self.sent = info.resource_id

    async def verify(self) -> None:
        found = await self.place.users.get_many([self.made, self.sent])
        assert [one and one.data for one in found] == [User("first", self.number), User("second", self.number)]


async def cancel_family(
    family: str, way: str, backend: Backend, figures: Figures, *, points: int, cases: int = 1000
) -> None:
    """Cancel at most so many points of each of at most so many cases, chosen by the seed."""
    seed = int(os.environ.get("SPECSTAR_FAULTS_SEED") or random.randrange(1 << 32))
    rng = random.Random(seed)

    async def place() -> Place:
        return await Place(backend).settle(away=way == "away")

    # What libraries make on first use, and keep.
    await use(first := await place())
    await first.spec.aclose()
    held = Held()
    async with (there := await place()).spec:
        for case in rng.sample(FAMILIES[family], min(cases, len(FAMILIES[family]))):
            trial = Trial(there, case, "task" if way == "task" else "scope", figures, rng)
            await trial.run(points, seed)
    await nothing_left(held)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In this process every family in every way; over the network each family on the backend that it is about."""
    here = [(kind, family, way) for kind in ("memory", "disk") for family in HERE for way in WAYS]
    away = [(kind, family, way) for kind, family in OVER_NETWORK for way in WAYS[:2]]
    for name, chosen in (("here", here), ("over_network", away)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, chosen, ids=["-".join(one) for one in chosen])


@pytest.mark.timeout(3000)
async def test_in_this_process(
    here: tuple[str, str, str], figures: Figures, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    kind, family, way = here
    figures.name = f"calls cancelled at every await: {kind}"
    points = fault_count(2 if kind == "memory" else 1, share=0.2)
    await cancel_family(family, way, configuration(kind, request, tmp_path), figures, points=points)


@pytest.mark.timeout(3000)
async def test_over_the_network(
    over_network: tuple[str, str, str], figures: Figures, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    kind, family, way = over_network
    figures.name = f"calls cancelled at every await: {kind}"
    await cancel_family(
        family,
        way,
        configuration(kind, request, tmp_path),
        figures,
        points=fault_count(1, share=0.05),
        cases=fault_count(OVER_NETWORK[kind, family], share=1),
    )
