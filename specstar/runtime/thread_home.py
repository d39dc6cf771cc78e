"""A home of our own: an asyncio loop in one background thread, for trio, plain threads and scripts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable

from specstar.runtime.home import AsyncioHome

__all__ = ["ThreadHome", "on_own_thread"]

logger: logging.Logger = logging.getLogger("specstar")
_STOP_SECONDS = 5.0
_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class ThreadHome(AsyncioHome):
    """An asyncio home whose loop runs in a daemon thread that specstar started and stops."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._running = threading.Event()
        self._stopped = loop.create_future()
        # A daemon: a program that forgot to close must still end, and the threads for files inherit this.
        self.thread: threading.Thread = threading.Thread(target=self._run, name="specstar-home", daemon=True)
        _threads.add(self.thread)

    @classmethod
    def start(cls) -> ThreadHome:
        """Start the thread; returns once its loop runs. uvloop is used where it is installed."""
        loop = _new_loop()
        home = cls(loop)
        try:
            home.thread.start()
        except BaseException:  # no more threads, or Ctrl-C
            if home.thread.ident is None:
                loop.close()
            else:
                home.stop(0)
            raise
        try:
            home._running.wait()
        except BaseException:
            home.stop(0)
            raise
        return home

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            # Not run_forever: anyio keeps its threads for files as long as the task of run_until_complete lives.
            self.loop.run_until_complete(self._live())
            self.loop.run_until_complete(self._wind_up())
        except BaseException:
            logger.exception("the event loop of the connections failed")
        finally:
            self._running.set()
            asyncio.set_event_loop(None)
            self.loop.close()
            self.lose_calls()

    async def _live(self) -> None:
        self._running.set()
        await self._stopped

    async def _wind_up(self) -> None:
        """End what still runs, so that nobody waits for it."""
        await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        await self.loop.shutdown_asyncgens()

    def alive(self) -> bool:
        return self.thread.is_alive() and not self.loop.is_closed()

    def at_end(self, function: Callable[[], Awaitable[None]]) -> None:
        """Nothing to do: this loop ends when its gate says so."""

    def stop(self, timeout: float = _STOP_SECONDS) -> None:
        """Stop the loop and wait for the thread, at most `timeout` seconds; in the thread itself, do not wait."""
        self.over = True
        with contextlib.suppress(RuntimeError):  # closed already
            self.loop.call_soon_threadsafe(self._stop_here)
        if timeout and threading.current_thread() is not self.thread:
            self.thread.join(timeout)

    def _stop_here(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)


def on_own_thread() -> bool:
    """True in the thread of such a home."""
    return threading.current_thread() in _threads


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
