"""One contestant in a process of its own, told what to do by lines of JSON on standard input.

Started by path (`python -P benchmarks/worker.py MODULE CLASS`), so that an interpreter of another environment finds its own
`specstar` and not the one beside this package.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import importlib.util
import json
import os
import platform
import sys
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TextIO

Answer = Callable[[dict[str, Any]], None]


def main() -> None:
    """Serve until standard input ends."""
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    module, name = sys.argv[1:]
    try:
        _register_package()
        setting = json.loads(sys.stdin.readline())
        contestant = getattr(importlib.import_module(module), name)(setting)
        contestant.start()
    except Exception:
        _answer(answers, {"error": traceback.format_exc()})
        raise SystemExit(1) from None
    serve = functools.partial(_serve, contestant, answers)
    if contestant.loop == "trio":
        import trio

        trio.run(serve, trio.to_thread.run_sync)
    elif contestant.loop == "asyncio" and setting.get("loop") == "uvloop":
        import uvloop

        uvloop.run(serve(asyncio.to_thread))
    else:
        asyncio.run(serve(asyncio.to_thread))


def _register_package() -> None:
    """Make `benchmarks` importable without its parent folder on the path."""
    root = Path(__file__).resolve().parent
    spec = importlib.util.spec_from_file_location(
        "benchmarks", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["benchmarks"] = package
    spec.loader.exec_module(package)


async def _serve(contestant: Any, answers: TextIO, in_thread: Callable[..., Awaitable[str]]) -> None:
    opened = False
    try:
        while line := await _next_line(contestant, in_thread):
            command = json.loads(line)
            try:
                result = await _obey(contestant, command)
                opened = opened or command["do"] == "open"
            except Exception as error:
                result = {"error": _first_cause(error)}
            _answer(answers, result)
            if command["do"] == "close":
                opened = False
                return
    finally:
        if opened:
            await contestant.close()


async def _next_line(contestant: Any, in_thread: Callable[..., Awaitable[str]]) -> str:
    # The loop stays free for heartbeats while another contestant has its turn.
    if contestant.loop == "blocking":
        return sys.stdin.readline()
    return await in_thread(sys.stdin.readline)


async def _obey(contestant: Any, command: dict[str, Any]) -> dict[str, Any]:
    match command["do"]:
        case "open":
            await contestant.open()
            loop = "trio" if contestant.loop == "trio" else type(asyncio.get_running_loop()).__module__.split(".")[0]
            return {
                "versions": contestant.versions(),
                "python": platform.python_version(),
                "loop": "none" if contestant.loop == "blocking" else loop,
            }
        case "measure":
            sample: dict[str, Any] = await contestant.measure(
                command["operation"], command["callers"], command["seconds"]
            )
            return sample
        case "close":
            await contestant.close()
            return {}
        case other:
            raise ValueError(f"no such command: {other!r}")


def _first_cause(error: BaseException) -> str:
    """The traceback; of many callers' errors, the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "".join(traceback.format_exception(error))


def _answer(answers: TextIO, result: dict[str, Any]) -> None:
    answers.write(json.dumps(result) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
