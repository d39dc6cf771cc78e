"""What a program holds: tasks of the running loop, threads of the package, open files and databases. Before and after."""

from __future__ import annotations

import asyncio
import gc
import threading
from asyncio import events
from collections import Counter
from pathlib import Path

import anyio
import trio

from specstar.backends.sqlite import descriptors

__all__ = ["Held", "nothing_left", "open_files"]

_PATIENCE_SECONDS = 5.0


class Held:
    """A look at what is held now."""

    def __init__(self) -> None:
        self.tasks = Counter(_tasks())
        self.threads = Counter(thread.name for thread in threading.enumerate() if _is_ours(thread.name))
        self.files = Counter(open_files())
        # What the collector of garbage closes is not counted as open any more: this says whether it was closed.
        self.databases = Counter(descriptors._files.keys())

    def beyond(self, earlier: Held) -> str:
        """What is held now and was not then, as text; empty if there is nothing."""
        kinds = {
            "tasks": self.tasks - earlier.tasks,
            "threads": self.threads - earlier.threads,
            "files": self.files - earlier.files,
            "databases": self.databases - earlier.databases,
        }
        return ", ".join(f"{kind}: {sorted(more.elements())}" for kind, more in kinds.items() if more)


async def nothing_left(earlier: Held) -> None:
    """Assert that nothing is held any more that was not held `earlier`; what is on its way out has a few seconds."""
    with anyio.move_on_after(_PATIENCE_SECONDS):
        while True:
            if not Held().beyond(earlier):
                return
            gc.collect()
            await anyio.sleep(0.01)
    raise AssertionError(f"left behind: {Held().beyond(earlier)}")


def _is_ours(name: str) -> bool:
    """Idle threads of anyio and trio end by themselves, with their loop or after a while."""
    return name.startswith("specstar")


def _tasks() -> list[str]:
    if events._get_running_loop() is not None:
        return [str(task.get_coro()).partition(" at 0x")[0] for task in asyncio.all_tasks()]
    names: list[str] = []
    root = trio.lowlevel.current_root_task()
    waiting = [root] if root is not None else []
    while waiting:
        task = waiting.pop()
        names.append(task.name)
        for nursery in task.child_nurseries:
            waiting.extend(nursery.child_tasks)
    return names


def open_files() -> list[str]:
    """The files that this process has open, by path; of sockets and pipes their kind."""
    names = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            names.append(str(link.readlink()))
        except OSError:
            continue
    # A socket or pipe has a number of its own each time: its kind counts.
    return [name if name.startswith("/") else name.partition(":")[0] for name in names]
