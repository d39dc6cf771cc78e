"""Conditional updates and reads of one resource by several programs at once: there is an order that explains them."""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from specstar import SpecStar
from specstar.errors import (
    BackendUnavailable,
    OutcomeUnknownError,
    ResourceDeletedError,
    RevisionConflictError,
)
from specstar.resource_manager import ResourceManager
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.bindings import Backend, configuration
from tests.faults.tools.linearizability import Call, explain, is_linearizable

KINDS = {"memory": 1, "disk": 3, "postgres": 3, "s3": 3, "postgres+s3": 3}
"""How many programs share the store; each has callers of its own."""
CALLERS = 2
CALLS = 5


class Counter(msgspec.Struct):
    number: int


State = tuple[str | None, int, bool]
"""The current revision (None: that of a call which was never answered, and nobody has read it yet), number, deleted."""


def step(state: State, call: Call) -> tuple[bool, State]:
    """What `ResourceManager` promises for one resource. An answer "conflict" or "deleted" is a refusal."""
    revision, number, deleted = state
    if call.kind == "read":
        if deleted:
            return call.answer == "deleted", state
        learned = (call.answer[0], number, False) if revision is None and call.answer[1:] == (number,) else state
        return call.answer == learned[:2], learned
    if call.kind == "restore":
        return True, (revision, number, False)
    if deleted:
        return call.answer in ("deleted", None), state
    expected, new = call.arguments
    if expected is not None and expected != revision:
        return call.answer in ("conflict", None), state
    if call.answer == "lost every race":
        return expected is None, state  # it says so, and has changed nothing
    if call.kind == "delete":
        return call.answer in ("done", None), (revision, number, True)
    return call.answer not in ("conflict", "deleted"), (call.answer, new, False)


class Program:
    """One SpecStar on the shared store, and what its callers saw."""

    def __init__(self, backend: Backend, name: str, history: list[Call], rng: random.Random) -> None:
        self.spec = SpecStar()
        self.spec.configure(backend=backend)
        self.counters: ResourceManager[Counter] = self.spec.add_model(Counter, indexed_fields=["number"])
        self.name = name
        self.history = history
        self.rng = rng
        self.last: dict[str, str] = {}

    async def make(self, caller: str) -> None:
        """One call at random, written down; one in eight is cancelled soon."""
        kind = self.rng.choice(
            ["read", "read", "update", "update", "blind update", "patch", "delete", "restore", "restore"]
        )
        number = self.rng.randrange(1 << 60)
        # What this caller saw last: some conditions hold, and some do not.
        expected = self.last.get(caller) if kind in {"update", "patch", "delete"} else None
        limit = self.rng.random() * 0.005 if self.rng.random() < 0.125 else 60.0
        begin = time.monotonic()
        answer: Any = None
        known = True
        try:
            with anyio.move_on_after(limit) as scope:
                await checkpoint()
                answer = await self._call(kind, expected, number, caller)
            known = not scope.cancelled_caught
        except RevisionConflictError:
            answer = "conflict" if expected is not None else "lost every race"
        except ResourceDeletedError:
            answer = "deleted"
        except OutcomeUnknownError:
            known = False
        except BackendUnavailable:
            return  # nothing was made
        if kind == "read" and not known:
            return
        end = time.monotonic() if known else float("inf")
        shown = {"blind update": "update", "patch": "update"}.get(kind, kind)
        self.history.append(Call(shown, (expected, number), answer, begin, end, known, f"{self.name}{caller}"))

    async def _call(self, kind: str, expected: str | None, number: int, caller: str) -> Any:
        counters = self.counters
        match kind:
            case "read":
                found = await counters.get("one")
                self.last[caller] = found.info.revision_id
                return found.info.revision_id, found.data.number
            case "patch":
                info = await counters.patch("one", {"number": number}, expected_revision_id=expected)
            case "delete":
                await counters.delete("one", expected_revision_id=expected)
                return "done"
            case "restore":
                await counters.restore("one")
                return "done"
            case _:
                info = await counters.update("one", Counter(number), expected_revision_id=expected)
        self.last[caller] = info.revision_id
        return info.revision_id


@asynccontextmanager
async def programs(
    backend: Backend, count: int, history: list[Call], rng: random.Random
) -> AsyncIterator[list[Program]]:
    async with AsyncExitStack() as stack:
        opened = [Program(backend, "ABCDE"[place], history, rng) for place in range(count)]
        for program in opened:
            await stack.enter_async_context(program.spec)
        yield opened


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", KINDS)
async def test_conditional_updates_of_one_resource(
    kind: str, figures: Figures, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    figures.name = f"several programs update one resource: {kind}"
    seed = int(os.environ.get("SPECSTAR_FAULTS_SEED") or random.randrange(1 << 32))
    rng = random.Random(seed)
    history: list[Call] = []
    met = 0
    async with programs(configuration(kind, request, tmp_path), KINDS[kind], history, rng) as opened:
        for _ in range(fault_count(6 if kind in {"memory", "disk", "postgres"} else 2)):
            history.clear()
            first = await reset(opened[0], rng)
            for program in opened:
                program.last.clear()
            async with anyio.create_task_group() as group:
                for program in opened:
                    for caller in range(CALLERS):
                        group.start_soon(some_calls, program, str(caller))
            if not is_linearizable(history, (*first, False), step):
                figures.lost += 1
                pytest.fail(f"no order explains this; first {first}; SPECSTAR_FAULTS_SEED={seed}\n{explain(history)}")
            figures.faults += sum(not call.known for call in history)
            figures.acknowledged += sum(call.known for call in history)
            met += sum(one.begin < other.begin < one.end for one in history for other in history)
            await one_end(opened, seed)
    assert met, "no two calls met"
    assert figures.lost == 0


async def one_end(opened: list[Program], seed: int) -> None:
    """All programs see the same, once calls that were cancelled on their way have landed."""
    seen: list[str] = []
    for _ in range(100):
        seen = [(await program.counters.get_meta("one")).current_revision_id for program in opened]
        if len({*seen}) == 1:
            return
        await anyio.sleep(0.02)
    pytest.fail(f"SPECSTAR_FAULTS_SEED={seed}: {seen}")


@pytest.mark.parametrize("kind", ["disk", "postgres", "s3"])
async def test_a_resource_made_anew_is_another(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """One program erases an id and makes it anew, as often changed as the row that another remembers."""
    async with programs(configuration(kind, request, tmp_path), 2, [], random.Random(0)) as (one, other):
        for change in ("update", "delete", "patch"):
            first = await one.counters.create(Counter(1), resource_id=change)
            await other.counters.permanently_delete(change)
            await other.counters.create(Counter(2), resource_id=change)
            with pytest.raises(RevisionConflictError):
                await one.counters.update(change, Counter(3), expected_revision_id=first.revision_id)
            if change == "update":
                await one.counters.update(change, Counter(4))
            elif change == "patch":
                await one.counters.patch(change, {"number": 4})
            else:
                await one.counters.delete(change)
                await one.counters.restore(change)
            found = await other.counters.get(change)
            assert found.data.number == (2 if change == "delete" else 4)
            revisions = await other.counters.list_revisions(change)
            assert len(revisions) == found.meta.revision_count
            assert revisions[-1].parent_revision_id in {None, revisions[0].revision_id}


async def reset(program: Program, rng: random.Random) -> tuple[str, int]:
    """Begin a round with a resource that was erased and made anew: also that must be seen by all at once."""
    counters = program.counters
    if (await counters.get_many(["one"], include_deleted=True))[0] is not None:
        await counters.permanently_delete("one")
    number = rng.randrange(1 << 60)
    return (await counters.create(Counter(number), resource_id="one")).revision_id, number


async def some_calls(program: Program, caller: str) -> None:
    for _ in range(CALLS):
        await program.make(caller)
