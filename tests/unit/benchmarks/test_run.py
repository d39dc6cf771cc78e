"""Selecting, ordering and running cases, and the command line."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.case import Case, Entry, Scale, Suite
from benchmarks.pool import ContestantFailed, Worker
from benchmarks.run import Plan, Selection, run_suite, select, turns
from benchmarks.suites import SUITES

ALL = [make(Scale()) for make in SUITES.values()]
SETTING: Mapping[str, Any] = {"payload": 100, "loop": "asyncio"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("suite", ALL, ids=lambda suite: suite.name)
def test_suites_name_only_contestants_that_they_have(suite: Suite) -> None:
    names = {entry.name for entry in suite.entries}
    assert len(names) == len(suite.entries)
    for case in suite.cases:
        assert set(case.entries) <= names
        assert {target.entry for target in case.targets} <= set(case.entries)
        assert {target.against for target in case.targets if target.against} <= set(case.entries)


@pytest.mark.parametrize("suite", ALL, ids=lambda suite: suite.name)
def test_contestants_of_this_environment_can_do_what_they_are_asked(suite: Suite) -> None:
    for entry in suite.entries:
        if entry.environment != "own" or entry.cls.startswith("config:"):
            continue
        module, _, name = entry.cls.partition(":")
        cls = getattr(importlib.import_module(f"benchmarks.contestants.{module}"), name)
        for case in suite.cases:
            if entry.name in case.entries:
                assert hasattr(cls, case.operation) or hasattr(cls, f"measure_{case.operation}"), (
                    entry,
                    case.operation,
                )


def test_every_other_round_goes_the_other_way() -> None:
    suite = Suite(
        name="s",
        entries=(Entry(name="a", cls="x:X"), Entry(name="b", cls="x:X")),
        cases=(Case(operation="get", title="get", callers=1, entries=("a", "b")),),
    )
    assert [(number, entry.name) for number, _, entry in turns(suite, 3)] == [
        (0, "a"),
        (0, "b"),
        (1, "b"),
        (1, "a"),
        (2, "a"),
        (2, "b"),
    ]


def test_a_selection_without_rivals_keeps_what_runs_here() -> None:
    chosen = select(ALL, Selection(rivals=False))
    assert {entry.environment for suite in chosen for entry in suite.entries} == {"own"}


def test_a_quick_selection_leaves_the_long_suites_out() -> None:
    names = {suite.name for suite in select(ALL, Selection(quick=True))}
    assert {"memory", "disk", "postgres", "rabbitmq", "s3"} <= names
    assert not names & {"load", "growth"}


@pytest.mark.anyio
async def test_contestants_run_in_processes_of_their_own(tmp_path: Path) -> None:
    (suite,) = select(ALL, Selection(backends=frozenset({"memory"}), operations=frozenset({"get"}), rivals=False))
    plan = Plan(seconds=0.02, rounds=2, setting={**SETTING, "data_dir": str(tmp_path)})
    began: list[str] = []
    results, about = await run_suite(suite, plan, started=began.append, measured=lambda _: None)
    (result,) = results
    assert {name: len(samples) for name, samples in result.samples.items()} == {"specstar": 2, "specstar on trio": 2}
    assert all(sample["value"] > 0 for samples in result.samples.values() for sample in samples)
    assert about["specstar on trio"]["loop"] == "trio"
    assert "memory: get, specstar on trio" in began
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240


@pytest.mark.anyio
async def test_memory_is_measured_in_a_new_process_each_time(tmp_path: Path) -> None:
    (suite,) = select(ALL, Selection(backends=frozenset({"start"}), operations=frozenset({"idle"})))
    plan = Plan(seconds=0.02, rounds=2, setting={**SETTING, "data_dir": str(tmp_path)})
    (result,), _ = await run_suite(suite, plan, started=lambda _: None, measured=lambda _: None)
    first, second = (sample["value"] for sample in result.samples["idle spec"])
    # In one process the second would find the memory of the first.
    assert first > 0.2
    assert second > 0.2


@pytest.mark.anyio
async def test_growth_is_measured_in_one_process_a_size(tmp_path: Path) -> None:
    grown = SUITES["growth"](Scale(sizes=(100, 200)))
    contestants = frozenset({"disk, 100", "disk, 200"})
    (suite,) = select([grown], Selection(operations=frozenset({"update"}), contestants=contestants))
    plan = Plan(seconds=0.02, rounds=1, setting={**SETTING, "data_dir": str(tmp_path)})
    (result,), _ = await run_suite(suite, plan, started=lambda _: None, measured=lambda _: None)
    assert result.samples.keys() == contestants
    assert result.case.points is not None
    assert result.case.points["disk, 200"] == ("disk", 200)
    (verdict, _) = result.verdicts()
    assert verdict.reached is not None


@pytest.mark.anyio
async def test_a_contestant_that_fails_says_why(tmp_path: Path) -> None:
    entry = Entry(name="broken", cls="fresh_process:FreshProcess", setting={"statement": "import no_such_module"})
    async with Worker(entry, {**SETTING, "data_dir": str(tmp_path)}) as worker:
        with pytest.raises(ContestantFailed, match="CalledProcessError"):
            await worker.measure("import", 1, 0.01)
    missing = Entry(name="missing", cls="no_such_module:Nothing")
    with pytest.raises(ContestantFailed, match="No module named"):
        async with Worker(missing, {**SETTING, "data_dir": str(tmp_path)}):
            pass


def test_the_command_line_writes_json(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--backend", "memory", "--operation", "gate", "--rounds", "1", "--seconds", "0.01", "--no-rivals"]
    assert main([*arguments, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    (result,) = document["results"]
    assert result["operation"] == "gate"
    assert result["targets"][0]["target"] == "<= 3"
    assert document["machine"]["cores"] >= 1


def test_the_command_line_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--backend", "disk"]) == 0
    assert "durable create" in capsys.readouterr().out
    assert main(["--operation", "no such"]) == 2
    assert "nothing is selected" in capsys.readouterr().err
