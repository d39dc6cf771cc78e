"""Disk: what is left after a power loss at any moment of short sequences of operations, by a model of what disks keep."""

from __future__ import annotations

import itertools
import json
import os
import random
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.failing_calls import LARGE, SMALL, opened, reopened
from tests.faults.tools.file_faults import Call, Event, events_of, run_program
from tests.faults.tools.power import crash_states, lay_out
from tests.faults.tools.traced_writes import OPERATIONS, blob_of

SEED = os.environ.get("SPECSTAR_FAULTS_SEED") or secrets.token_hex(4)
SEQUENCES = [list(chosen) for length in (1, 2, 3) for chosen in itertools.product(OPERATIONS, repeat=length)]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


def sample(states: int) -> tuple[list[list[str]], int]:
    """Which sequences to run, and how many states of each to look at: all of both where many faults are wanted."""
    if states >= 1000:
        return SEQUENCES, states
    rest = random.Random(SEED).sample(SEQUENCES[len(OPERATIONS) :], 7)
    return SEQUENCES[: len(OPERATIONS)] + rest, states // (len(OPERATIONS) + 7)


class Ledger:
    """What may be there, from the marks of a trace up to some call."""

    def __init__(self, events: Sequence[Event], sequence: Sequence[str]) -> None:
        marks = [event.path.split() for event in events if event.call is Call.MARK]
        done = {int(number) for kind, number in marks if kind == "done"}
        begun = {int(number) for kind, number in marks if kind == "begin"}
        self.acknowledged = len(done)
        self.resources: dict[str, set[str | None]] = {}
        self.blobs: dict[bytes, set[bool]] = {}
        self._change("base", LARGE, done=0 in done)
        self._change("gone", LARGE, done=0 in done)
        for number, operation in enumerate(sequence, 1):
            if number in begun:
                self._follow(number, operation, done=number in done)

    def _follow(self, number: int, operation: str, *, done: bool) -> None:
        if operation == "put blob":
            self.blobs[blob_of(number)] = {True} if done else {True, False}
        elif operation == "delete":
            self._change("gone", None, done=done)
            if not done:
                self.resources["gone"].add(SMALL)
        elif operation == "update":
            self._change("base", f"{LARGE}{number}", done=done)
        else:
            self._change(f"r{number}", SMALL if operation == "create small" else LARGE, done=done)

    def _change(self, resource_id: str, new: str | None, *, done: bool) -> None:
        old = self.resources.get(resource_id, {None})
        self.resources[resource_id] = {new} if done else old | {new}


@pytest.mark.timeout(1800)
async def test_after_a_power_loss_all_that_was_acknowledged_is_there_and_the_rest_whole_or_not_at_all(
    figures: Figures, file_faults: Path, tmp_path: Path
) -> None:
    figures.name = "disk: power loss"
    sequences, states_each = sample(fault_count(240, share=50))
    named = {f"s{number}": sequence for number, sequence in enumerate(sequences)}
    run_program(file_faults, "tests.faults.tools.traced_writes", str(tmp_path), json.dumps(named))
    for name, sequence in named.items():
        events = list(events_of(tmp_path / f"{name}.trace"))
        for place, kind, tree in some_states(events, str(tmp_path / name), sequence, states_each):
            ledger = Ledger(events[: place + 1], sequence)
            figures.faults += 1
            figures.acknowledged += ledger.acknowledged
            state = tmp_path / "state"
            lay_out(tree, state)
            last = events[place]
            where = f"{sequence}, after call {place} ({last.call.name} {last.path}), {kind}; seed {SEED}"
            with figures.stall():
                try:
                    await reopened(state / "deep" / "root", ledger.resources, ledger.blobs, tmp_path / "copy")
                except Exception as error:
                    raise AssertionError(f"{where}: {error!r}") from error
            shutil.rmtree(state)
    assert figures.faults >= len(sequences)


def some_states(
    events: Sequence[Event], root: str, sequence: Sequence[str], count: int
) -> Iterator[tuple[int, str, dict[str, bytes | None]]]:
    """Of the last operation: what comes before it is the end of a shorter sequence."""
    marks = [place for place, event in enumerate(events) if event.call is Call.MARK and event.path.startswith("begin")]
    states = crash_states(events, root, start=0 if len(sequence) == 1 else marks[-1])
    chosen = set(random.Random(SEED).sample(range(len(states)), min(count, len(states))))
    return (state for place, state in enumerate(states) if place in chosen)


async def test_the_model_notices_what_is_not_synced(file_faults: Path, tmp_path: Path) -> None:
    """The same check on a trace without its syncs fails: it can see a loss."""
    run_program(file_faults, "tests.faults.tools.traced_writes", str(tmp_path), json.dumps({"s": ["create large"]}))
    events = [event for event in events_of(tmp_path / "s.trace") if event.call is not Call.SYNC]
    place, _, tree = crash_states(events, str(tmp_path / "s"), start=len(events) - 1)[0]
    assert place == len(events) - 1
    assert tree == {}
    async with opened(tmp_path / "state") as store:
        store.allowed = Ledger(events, ["create large"]).resources
        with pytest.raises(AssertionError, match="found None"):
            await store.check()
