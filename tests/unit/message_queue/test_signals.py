"""Several workers in one process share its signals, and leave the handlers as they were."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import uvloop

from specstar import Job, SpecStar
from specstar.message_queue.run import WorkerStop
from specstar.message_queue.signals import at_signals

NUMBERS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", NUMBERS)
def test_each_hears_of_a_signal_and_the_last_puts_the_handler_back(number: int) -> None:
    before = [signal.getsignal(each) for each in NUMBERS]
    one, two = WorkerStop(), WorkerStop()
    first, second = at_signals(one.set), at_signals(two.set)
    with second:
        with first:
            os.kill(os.getpid(), number)
            assert (one.calls, two.calls) == (1, 1)
        # The first is over: the other still hears, and the process lives.
        os.kill(os.getpid(), number)
        assert (one.calls, two.calls) == (1, 2)
    assert [signal.getsignal(each) for each in NUMBERS] == before


def test_the_first_may_end_first() -> None:
    before = signal.getsignal(signal.SIGTERM)
    one, two = WorkerStop(), WorkerStop()
    first, second = at_signals(one.set), at_signals(two.set)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert (one.calls, two.calls) == (0, 1)
    second.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_those_who_share_a_stop_are_stopped_once() -> None:
    stop = WorkerStop()
    with at_signals(stop.set), at_signals(stop.set):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.calls == 1


@pytest.mark.parametrize(("signals", "calls", "ends_well"), [(1, 1, True), (2, 0, False), (0, 2, False)])
def test_a_signal_and_the_stop_of_the_program_that_it_ends_are_not_two(
    signals: int, calls: int, ends_well: bool
) -> None:
    """A web server hears of SIGTERM, as its workers do, and stops them in its lifespan."""

    async def main() -> list[str]:
        said: list[str] = []
        begun = asyncio.Event()
        spec = SpecStar()
        spec.configure(backend={"mq": {"type": "simple"}})

        async def handle(job: Job[int]) -> None:
            begun.set()
            await asyncio.sleep(0.3)
            said.append("ended")

        queue = spec.add_job(int, handle, name="slow", keep_state=False)
        stop = WorkerStop()
        async with spec:
            workers = asyncio.create_task(spec.run_workers(stop=stop))
            await queue.enqueue(1)
            await begun.wait()
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(calls):
                stop.set()
            await workers
        return said

    assert asyncio.run(main()) == (["ended"] if ends_well else [])


def test_a_handler_that_the_program_put_in_place_meanwhile_stays() -> None:
    heard: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    try:
        with at_signals(WorkerStop().set):
            signal.signal(signal.SIGTERM, lambda number, _frame: heard.append(number))
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_handler_that_was_there_hears_of_the_signal_too(number: int) -> None:
    heard: list[object] = []
    stop = WorkerStop()

    def of_a_web_server(number: int, _frame: object) -> None:
        heard.append((number, stop.calls))

    before = signal.signal(number, of_a_web_server)
    try:
        with at_signals(stop.set):
            os.kill(os.getpid(), number)
        assert heard == [(number, 1)], "after the workers"
        assert signal.getsignal(number) is of_a_web_server
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("of_uvloop", [False, True])
def test_an_event_loop_hears_of_the_signals_that_it_watches(of_uvloop: bool) -> None:
    heard: list[str] = []
    stop = WorkerStop()

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.append, "of the loop")
        with at_signals(stop.set):
            for number in NUMBERS:
                os.kill(os.getpid(), number)
                await asyncio.sleep(0.05)

    before = signal.getsignal(signal.SIGTERM)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop if of_uvloop else None) as runner:
            runner.run(main())  # SIGINT does not cancel it: that would end the drain
    finally:
        signal.signal(signal.SIGTERM, before)  # uvloop leaves its own
    assert (heard, stop.calls) == (["of the loop"], 2)


def test_a_forked_child_dies_of_a_signal_as_before() -> None:
    stop = WorkerStop()
    reading, writing = os.pipe()
    with at_signals(stop.set), os.fdopen(reading, "rb", buffering=0) as ready:
        child = os.fork()
        if child == 0:
            os.write(writing, b"!")
            time.sleep(20)
            os._exit(1)
        os.close(writing)
        assert ready.read(1) == b"!"
        os.kill(child, signal.SIGTERM)
        _, status = os.waitpid(child, 0)
    assert (os.WTERMSIG(status), stop.calls) == (signal.SIGTERM, 0)


def test_a_forked_child_closes_without_waiting_for_the_workers_of_its_parent() -> None:
    program = textwrap.dedent(
        """
        import os, time
        import anyio
        from specstar import Job, SpecStar

        spec = SpecStar()
        memory = {"type": "memory"}
        spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "simple"}})

        async def fork(job: Job[int]) -> int:
            child = os.fork()
            if child:
                _, status = await anyio.to_thread.run_sync(os.waitpid, child, 0)
                return os.waitstatus_to_exitcode(status)
            try:
                began = time.monotonic()

                async def main():
                    await queue.depth()
                    await spec.aclose()
                import threading
                thread = threading.Thread(target=anyio.run, args=(main,))
                thread.start()
                thread.join()
                os._exit(0 if time.monotonic() - began < 4 else 3)
            finally:
                os._exit(9)

        queue = spec.add_job(int, fork)

        async def main():
            async with spec:
                async with anyio.create_task_group() as group:
                    group.start_soon(spec.run_workers)
                    job = await queue.enqueue(1)
                    print((await queue.wait(job.job_id, timeout=20)).result)
                    group.cancel_scope.cancel()

        anyio.run(main)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "0\n", done.stderr


def test_one_signal_drains_all_workers_of_a_process() -> None:
    program = textwrap.dedent(
        """
        import anyio
        from specstar import Job, SpecStar

        spec = SpecStar()
        memory = {"type": "memory"}
        spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "simple"}})

        async def slow(job: Job[int]) -> None:
            print("began", flush=True)
            await anyio.sleep(0.5)
            print("ended", flush=True)

        one = spec.add_job(int, slow, name="one")
        two = spec.add_job(int, slow, name="two")

        async def main():
            async with spec:
                await one.enqueue(1)
                await two.enqueue(2)
                async with anyio.create_task_group() as group:
                    group.start_soon(lambda: spec.run_workers(queues=[one]))
                    group.start_soon(lambda: spec.run_workers(queues=[two]))
            print("drained", flush=True)

        anyio.run(main)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["began\n", "began\n"]
        process.terminate()
        out, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (out, process.returncode) == ("ended\nended\ndrained\n", 0)


STUBBORN = """
import anyio
from msgspec import Struct
from specstar import Job, SpecStar

spec = SpecStar()
spec.configure(backend={"mq": {"type": "simple"}})


class Mail(Struct):
    number: int = 0


@spec.job
async def stubborn(job: Job[Mail]) -> None:
    print("runs", flush=True)
    while True:
        try:
            await anyio.sleep(0.01)
        except BaseException:
            pass


async def main() -> None:
    await stubborn.enqueue(Mail())
    await spec.run_workers()


anyio.run(main)
"""


def test_a_handler_that_swallows_every_cancellation_does_not_outlive_a_fourth_signal() -> None:
    with subprocess.Popen([sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        try:
            assert program.stdout.readline() == b"runs\n"
            for _ in range(4):
                program.send_signal(signal.SIGTERM)
                time.sleep(0.3)
            assert program.wait(20) == -signal.SIGTERM
        finally:
            program.kill()
