"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import machine, page, pictures, table
from benchmarks.case import Scale, Suite
from benchmarks.environments import EnvironmentFailed
from benchmarks.figures import CaseResult, as_json
from benchmarks.pool import ContestantFailed
from benchmarks.run import Plan, Selection, run_suite, select
from benchmarks.suites import SUITES

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
_QUICK = {"seconds": 0.2, "rounds": 2}
_FULL = {"seconds": 2.0, "rounds": 5}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks; exit status 0 if all ran, 1 if a contestant failed, 2 for wrong arguments."""
    options = _parser().parse_args(arguments)
    console = Console(stderr=options.json == "-", width=None if sys.stdout.isatty() else 200)
    selection = Selection(
        backends=frozenset(options.backend) if options.backend else None,
        operations=frozenset(options.operation) if options.operation else None,
        callers=frozenset(options.callers) if options.callers else None,
        contestants=frozenset(options.contestant) if options.contestant else None,
        rivals=not options.no_rivals,
        quick=options.quick,
    )
    scale = Scale(search_rows=10_000, old_rows=200, jobs=1_000) if options.quick else Scale()
    if options.sizes:
        scale = replace(scale, sizes=tuple(sorted(options.sizes)))
    suites = select([make(scale) for make in SUITES.values()], selection)
    if not suites:
        print("nothing is selected; --list shows what there is", file=sys.stderr)
        return 2
    if options.list:
        for suite in suites:
            for case in suite.cases:
                console.print(f"{suite.name:10} {case.operation:16} {case.callers:6}  {case.title}", highlight=False)
        return 0
    preset = _QUICK if options.quick else _FULL
    if options.json != "-" and find_spec("matplotlib") is None:
        print("the pictures need matplotlib: pip install 'specstar[bench]', or use --json -", file=sys.stderr)
        return 2
    try:
        document, results = asyncio.run(_run(suites, options, preset, console))
    except EnvironmentFailed as error:
        print(error, file=sys.stderr)
        return 1
    ours = frozenset(entry.name for suite in suites for entry in suite.entries if entry.ours)
    _write(document, results, ours, options)
    for name, message in document["failed"].items():
        print(f"{name} failed: {message}", file=sys.stderr)
    return 1 if document["failed"] else 0


async def _run(
    suites: list[Suite], options: Any, preset: dict[str, float], console: Console
) -> tuple[dict[str, Any], list[CaseResult]]:
    plan_seconds = options.seconds or preset["seconds"]
    rounds = options.rounds or int(preset["rounds"])
    about = machine.describe()
    console.print(
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, {about['system']}, {about['python']}, "
        f"load {about['load']}; {rounds} rounds of {plan_seconds:g} s, payload {options.payload} bytes",
        highlight=False,
    )
    results: list[CaseResult] = []
    contestants: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        setting: dict[str, Any] = {"payload": options.payload, "loop": options.loop, "data_dir": options.data_dir}
        servers = sorted({server for suite in suites for server in suite.servers})
        if servers:
            import services

            console.print(f"starting {', '.join(servers)}")
            setting["environment"] = stack.enter_context(
                services.ServiceHost(postgres_settings=machine.postgres_settings())
            ).environment(servers)
        plan = Plan(seconds=plan_seconds, rounds=rounds, setting=setting)
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        progress = stack.enter_context(Progress(*columns, console=console, transient=True))
        total = sum(len(case.entries) for suite in suites for case in suite.cases) * rounds
        task = progress.add_task("", total=total)
        for suite in suites:
            try:
                found, said = await run_suite(
                    suite,
                    plan,
                    started=lambda what: progress.update(task, description=what),
                    measured=lambda _: progress.advance(task),
                )
            except ContestantFailed as error:
                # The other suites are worth having all the same.
                failed[suite.name] = str(error)
                continue
            contestants[suite.name] = said
            results += found
            table.show(progress.console, suite, found)
    document = {
        "machine": about,
        "seconds": plan_seconds,
        "rounds": rounds,
        "payload": options.payload,
        "quick": options.quick,
        "loop": options.loop,
        "failed": failed,
        "contestants": contestants,
        "notes": {suite.name: suite.notes for suite in suites},
        "results": as_json(results),
    }
    return document, results


def _write(document: dict[str, Any], results: list[CaseResult], ours: frozenset[str], options: Any) -> None:
    text = json.dumps(document, indent=1) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
        return
    path = Path(options.json) if options.json else RESULTS / "newest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    written = pictures.draw(results, ours, path.with_suffix(""))
    print(path, *written, sep="\n")
    if options.page:
        page.refresh(PAGE, document, results, written)
        print(PAGE)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--backend", action="append", choices=list(SUITES), help="may be repeated")
    parser.add_argument("--operation", action="append", help="only this one; may be repeated")
    parser.add_argument("--contestant", action="append", help="only this one; may be repeated")
    parser.add_argument("--callers", action="append", type=int, help="only cases with so many callers; may be repeated")
    parser.add_argument("--payload", type=int, default=200, metavar="BYTES", help="size of a resource's JSON (200)")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="resources in the stores of the suite growth")
    parser.add_argument(
        "--seconds", type=float, help=f"each measurement ({_FULL['seconds']:g}; quick {_QUICK['seconds']:g})"
    )
    parser.add_argument("--rounds", type=int, help=f"({_FULL['rounds']}; quick {_QUICK['rounds']})")
    parser.add_argument("--quick", action="store_true", help="under three minutes")
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="where to write the results, and a folder of pictures beside it; - for standard output",
    )
    parser.add_argument("--page", action="store_true", help="put the results into docs/performance.md")
    parser.add_argument("--no-rivals", action="store_true", help="only what runs in this environment")
    parser.add_argument(
        "--loop", choices=["uvloop", "asyncio"], default=_default_loop(), help="for all asyncio contestants"
    )
    parser.add_argument(
        "--data-dir", default=tempfile.gettempdir(), help="where files are written (a real disk, not tmpfs)"
    )
    parser.add_argument("--list", action="store_true", help="show the cases and end")
    return parser


def _default_loop() -> str:
    return "uvloop" if os.name != "nt" and find_spec("uvloop") else "asyncio"


if __name__ == "__main__":
    raise SystemExit(main())
