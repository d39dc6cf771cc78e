"""Calling a handler: on this loop, on the loop of the worker's caller, or, a plain function, in a thread."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from specstar.message_queue.handler_threads import HandlerExitError, HandlerThreads
from specstar.message_queue.job import Job
from specstar.runtime import Home
from specstar.runtime.crossing import cross_to

__all__ = ["HandlerExitError", "Invoke", "invoker"]

Invoke = Callable[[Job[Any]], Any]
"""Awaitable call of one handler."""


def invoker(
    handler: Callable[[Job[Any]], Any], *, is_async: bool, caller: Home | None, threads: HandlerThreads
) -> Invoke:
    """How a worker calls a handler. `caller` is the loop for async handlers, None for the present one."""
    if not is_async:
        return functools.partial(_in_thread, threads, caller, handler)
    return _on_loop(caller, handler)


def _on_loop(caller: Home | None, handler: Callable[[Job[Any]], Coroutine[Any, Any, Any]]) -> Invoke:
    if caller is None:
        return functools.partial(_InOwnContext, handler)
    return functools.partial(_on_callers_loop, caller, handler)


async def _in_thread(
    threads: HandlerThreads, caller: Home | None, handler: Callable[[Job[Any]], Any], job: Job[Any]
) -> Any:
    result = await threads.call(handler, job)
    if not inspect.isawaitable(result):
        return result

    # A plain decorator around an async handler looks like a plain one.
    async def rest(job: Job[Any]) -> Any:
        return await result

    return await _on_loop(caller, rest)(job)


class _InOwnContext:
    """Runs a coroutine with context variables of its own, without a task: what a handler sets, the next does not see.

    Raises `HandlerExitError` for a GeneratorExit of the handler: one from here means that this coroutine is closed.
    """

    __slots__ = ("_handler", "_job")

    def __init__(self, handler: Callable[[Job[Any]], Coroutine[Any, Any, Any]], job: Job[Any]) -> None:
        self._handler = handler
        self._job = job

    def __await__(self) -> Generator[Any, Any, Any]:
        context = contextvars.copy_context()
        coroutine = context.run(self._handler, self._job)
        send, throw = coroutine.send, coroutine.throw
        closed = False
        try:
            waited_for = context.run(send, None)
            while True:
                try:
                    got = yield waited_for
                except GeneratorExit:
                    closed = True
                    context.run(coroutine.close)
                    raise
                except BaseException as error:
                    waited_for = context.run(throw, error)
                else:
                    waited_for = context.run(send, got)
        except StopIteration as end:
            return end.value
        except GeneratorExit as error:
            if closed:
                raise
            raise HandlerExitError from error


async def _on_callers_loop(caller: Home, handler: Callable[[Job[Any]], Coroutine[Any, Any, Any]], job: Job[Any]) -> Any:
    async def call() -> Any:
        try:
            return await _InOwnContext(handler, job)
        except SystemExit as error:
            raise HandlerExitError from error
        except KeyboardInterrupt as error:
            if threading.current_thread() is threading.main_thread():
                raise
            raise HandlerExitError from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise HandlerExitError from error  # nobody cancelled it: the handler raised that

    return await cross_to(caller, call)
