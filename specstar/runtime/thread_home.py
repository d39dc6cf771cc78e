"""A home of our own: an asyncio loop in one background thread, for trio, plain threads and scripts."""

from __future__ import annotations

import asyncio
import threading

from specstar.runtime.home import AsyncioHome

__all__ = ["ThreadHome"]


class ThreadHome(AsyncioHome):
    """An asyncio home whose loop runs in a daemon thread that specstar started and stops."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        super().__init__(loop)
        self.thread = thread

    @classmethod
    def start(cls) -> ThreadHome:
        """Start the thread; returns once its loop runs. uvloop is used where it is installed."""
        started = threading.Event()
        loop = _new_loop()

        def run() -> None:
            asyncio.set_event_loop(loop)
            loop.call_soon(started.set)
            try:
                loop.run_forever()
            finally:
                asyncio.set_event_loop(None)
                loop.close()

        thread = threading.Thread(target=run, name="specstar-home", daemon=True)
        thread.start()
        started.wait()
        return cls(loop, thread)

    def alive(self) -> bool:
        return self.thread.is_alive() and not self.loop.is_closed()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the loop and wait for the thread, at most `timeout` seconds. Not from the thread itself."""
        if self.loop.is_closed():
            return
        try:
            self.loop.call_soon_threadsafe(self.loop.stop)
        except RuntimeError:
            return  # closed meanwhile
        if threading.current_thread() is not self.thread:
            self.thread.join(timeout)


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
