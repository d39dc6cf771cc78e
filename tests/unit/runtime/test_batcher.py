from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specstar.errors import BackendError, BackendUnavailable, OutcomeUnknownError
from specstar.runtime import batcher as batcher_module
from specstar.runtime.batcher import Batcher
from specstar.runtime.home import AsyncioHome, Home
from specstar.runtime.trio_home import TrioHome

pytestmark = pytest.mark.anyio


def make_home() -> Home:
    import asyncio

    try:
        return AsyncioHome(asyncio.get_running_loop())
    except RuntimeError:
        return TrioHome()


async def test_a_lone_call_leaves_alone_and_gets_its_result() -> None:
    batches: list[list[int]] = []

    async def flush(items: list[int]) -> Sequence[int]:
        batches.append(items)
        return [item * 10 for item in items]

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test")
    assert await batcher.submit(4) == 40
    assert batches == [[4]]


async def test_calls_of_one_loop_turn_travel_together() -> None:
    batches: list[int] = []

    async def flush(items: list[int]) -> Sequence[int]:
        batches.append(len(items))
        await anyio.sleep(0.01)
        return items

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test", max_items=40)
    results: dict[int, int] = {}

    async def call(number: int) -> None:
        results[number] = await batcher.submit(number)

    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(call, number)
    assert results == {number: number for number in range(100)}
    assert sum(batches) == 100
    assert max(batches) <= 40
    assert len(batches) <= 5


async def test_many_callers_are_shared_out_among_the_flushes_under_way() -> None:
    under_way: list[int] = []
    most = 0

    async def flush(items: list[int]) -> Sequence[int]:
        nonlocal most
        under_way.append(len(items))
        most = max(most, len(under_way))
        await anyio.sleep(0.005)
        under_way.remove(len(items))
        return items

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test", max_in_flight=2)

    async def call(number: int) -> None:
        for _ in range(5):
            await batcher.submit(number)

    async with anyio.create_task_group() as group:
        for number in range(64):
            group.start_soon(call, number)
    assert most == 2
    # Two flushes of 32, again and again: neither one of 64, nor crumbs. (trio wakes them in any order, and a late timer in two.)
    assert 10 <= batcher.counts.requests <= 20


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_whom_a_flush_wakes_leave_with_those_who_waited() -> None:
    sizes: list[int] = []
    ends = [anyio.Event() for _ in range(8)]

    async def flush(items: list[int]) -> Sequence[int]:
        sizes.append(len(items))
        await ends[len(sizes) - 1].wait()
        return items

    async def call_twice(number: int) -> None:
        await batcher.submit(number)
        await batcher.submit(number)

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test", max_in_flight=2)
    async with anyio.create_task_group() as group:
        for callers in (10, 54):
            for number in range(callers):
                group.start_soon(call_twice, number)
            await anyio.wait_all_tasks_blocked()
        assert (sizes, batcher.waiting) == ([10, 32], 22)
        ends[0].set()
        await anyio.wait_all_tasks_blocked()
        assert (sizes, batcher.waiting) == ([10, 32, 32], 0)
        for end in ends[1:]:
            end.set()
    assert sum(sizes) == 128


async def test_few_callers_are_not_shared_out() -> None:
    sizes: list[int] = []

    async def flush(items: list[int]) -> Sequence[int]:
        sizes.append(len(items))
        await anyio.sleep(0.005)
        return items

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test", max_in_flight=2)
    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(batcher.submit, number)
    assert sizes == [12]


async def test_each_caller_gets_its_own_error() -> None:
    async def flush(items: list[int]) -> Sequence[int | Exception]:
        return [ValueError(str(item)) if item % 2 else item for item in items]

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test")
    outcomes: dict[int, object] = {}

    async def call(number: int) -> None:
        try:
            outcomes[number] = await batcher.submit(number)
        except ValueError as error:
            outcomes[number] = str(error)

    async with anyio.create_task_group() as group:
        for number in range(6):
            group.start_soon(call, number)
    assert outcomes == {0: 0, 1: "1", 2: 2, 3: "3", 4: 4, 5: "5"}


async def test_a_failed_flush_fails_all_of_its_batch_with_separate_errors_and_the_next_works() -> None:
    fail = True

    async def flush(items: list[int]) -> Sequence[int]:
        if fail:
            raise BackendError("no space left")
        return items

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test")
    errors: list[BackendError] = []

    async def call(number: int) -> None:
        with pytest.raises(BackendError, match="no space left") as caught:
            await batcher.submit(number)
        errors.append(caught.value)

    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(call, number)
    assert len({id(error) for error in errors}) == 3
    fail = False
    assert await batcher.submit(7) == 7


async def test_too_few_results_is_an_error_and_no_hang() -> None:
    async def flush(items: list[int]) -> Sequence[int]:
        return []

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test")
    with pytest.raises(BackendError, match="0 results for 1 items"):
        await batcher.submit(1)


async def test_cancelling_one_caller_leaves_its_neighbours_alone() -> None:
    gate = anyio.Event()
    seen: list[int] = []

    async def flush(items: list[int]) -> Sequence[int]:
        seen.extend(items)
        await gate.wait()
        return items

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test", max_in_flight=1)
    results: list[int] = []

    async def call(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            results.append(await batcher.submit(number))

    scopes = [anyio.CancelScope() for _ in range(6)]
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(call, number, scopes[number])
        await anyio.wait_all_tasks_blocked()
        for number in range(3, 6):
            group.start_soon(call, number, scopes[number])
        await anyio.wait_all_tasks_blocked()
        scopes[1].cancel()  # in flight: the flush goes on
        scopes[4].cancel()  # pending: never sent
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert sorted(results) == [0, 2, 3, 5]
    assert sorted(seen) == [0, 1, 2, 3, 5]


async def test_items_of_one_key_are_never_in_flight_together_and_keep_their_order() -> None:
    active: set[str] = set()
    order: list[tuple[str, int]] = []

    async def flush(items: list[tuple[str, int]]) -> Sequence[None]:
        keys = [key for key, _ in items]
        assert len(set(keys)) == len(keys)
        assert not active & set(keys)
        active.update(keys)
        await anyio.sleep(0.001)
        order.extend(items)
        active.difference_update(keys)
        return [None] * len(items)

    batcher: Batcher[tuple[str, int], None] = Batcher(
        make_home(), flush, name="test", key_of=lambda item: item[0], max_in_flight=3, max_items=4
    )
    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(batcher.submit, (f"key-{number % 5}", number))
    for key in range(5):
        numbers = [number for name, number in order if name == f"key-{key}"]
        assert sorted(numbers) == list(range(key, 60, 5))
    assert not batcher._keys


async def test_a_batch_is_bounded_in_bytes_and_a_huge_item_travels_alone() -> None:
    batches: list[list[int]] = []

    async def flush(items: list[int]) -> Sequence[None]:
        batches.append(items)
        await anyio.sleep(0.001)
        return [None] * len(items)

    batcher: Batcher[int, None] = Batcher(
        make_home(), flush, name="test", max_bytes=100, size_of=lambda item: item, max_in_flight=1
    )
    async with anyio.create_task_group() as group:
        for size in (60, 60, 500, 30, 30, 30):
            group.start_soon(batcher.submit, size)
    assert sorted(size for batch in batches for size in batch) == [30, 30, 30, 60, 60, 500]
    assert all(sum(batch) <= 100 or len(batch) == 1 for batch in batches)


async def test_what_waited_too_long_is_refused_unsent() -> None:
    gate = anyio.Event()
    seen: list[int] = []

    async def flush(items: list[int]) -> Sequence[int]:
        seen.extend(items)
        await gate.wait()
        return items

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="pool", max_in_flight=1, max_wait=0.02)
    errors: list[str] = []

    async def call(number: int) -> None:
        try:
            await batcher.submit(number)
        except BackendUnavailable as error:
            errors.append(str(error))

    async with anyio.create_task_group() as group:
        group.start_soon(call, 1)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(call, 2)
        await anyio.sleep(0.05)
        gate.set()
    assert seen == [1]
    assert len(errors) == 1
    assert "pool: not sent within 0.02 s" in errors[0]


async def test_closing_the_home_fails_those_who_wait_instead_of_hanging() -> None:
    async def flush(items: list[int]) -> Sequence[int]:
        await anyio.sleep(60)
        return items

    home = make_home()
    batcher: Batcher[int, int] = Batcher(home, flush, name="test", max_in_flight=1, max_items=1)
    errors: list[Exception] = []

    async def call(number: int) -> None:
        try:
            await batcher.submit(number)
        except BackendUnavailable as error:
            errors.append(error)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(call, number)
            await anyio.wait_all_tasks_blocked()
            home.closing = True
            await home.cancel_tasks(1)
        assert len(errors) == 3
        with pytest.raises(BackendUnavailable, match="closed"):
            await batcher.submit(9)


async def test_a_home_that_another_thread_closes_while_an_item_comes_in_does_not_leave_its_caller_hanging() -> None:
    home = make_home()

    async def flush(items: list[int]) -> Sequence[int]:
        return items

    def key_of(item: int) -> int:
        home.closing = True  # between the look at it and the start of a flush
        return item

    batcher: Batcher[int, int] = Batcher(home, flush, name="test", key_of=key_of)
    with anyio.fail_after(5), pytest.raises(BackendUnavailable, match="closed"):
        await batcher.submit(1)
    assert not batcher.busy


@settings(max_examples=40, deadline=None)
@given(
    keys=st.lists(st.integers(0, 4), max_size=40),
    limits=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    cancelled=st.sets(st.integers(0, 39)),
)
def test_any_mix_of_keys_and_cancellations_answers_everyone_once(
    keys: list[int], limits: tuple[int, int], cancelled: set[int]
) -> None:
    async def main() -> None:
        applied: list[int] = []

        async def flush(items: list[int]) -> Sequence[int]:
            await anyio.lowlevel.checkpoint()
            applied.extend(items)
            return [-item for item in items]

        batcher: Batcher[int, int] = Batcher(
            make_home(), flush, name="test", max_items=limits[0], max_in_flight=limits[1], key_of=keys.__getitem__
        )
        answers: dict[int, int] = {}

        async def call(number: int, scope: anyio.CancelScope) -> None:
            with scope:
                answers[number] = await batcher.submit(number)

        scopes = [anyio.CancelScope() for _ in keys]
        async with anyio.create_task_group() as group:
            for number, scope in enumerate(scopes):
                group.start_soon(call, number, scope)
            await anyio.lowlevel.checkpoint()
            for number in cancelled & set(range(len(keys))):
                scopes[number].cancel()
        assert len(set(applied)) == len(applied)
        assert all(answers[number] == -number for number in answers)
        assert set(answers) | cancelled >= set(range(len(keys)))
        assert set(answers) <= set(applied)
        await anyio.sleep(0)
        assert batcher.waiting == 0
        assert not batcher._keys

    anyio.run(main)


@pytest.mark.parametrize(("slow", "expected"), [(-1.0, 3), (60.0, 1)], ids=["slow", "quick"])
async def test_while_flushes_are_slow_more_are_under_way(
    monkeypatch: pytest.MonkeyPatch, slow: float, expected: int
) -> None:
    """As over a long way to the store; items of one key still leave one after the other."""
    monkeypatch.setattr(batcher_module, "_SLOW_SECONDS", slow)
    under_way: list[list[int]] = []
    limit_reached, go_on = anyio.Event(), anyio.Event()
    most = done = 0

    async def flush(items: list[int]) -> Sequence[int]:
        nonlocal most, done
        under_way.append(items)
        most = max(most, len(under_way))
        if done:  # the first tells how slow they are
            if len(under_way) == expected:
                limit_reached.set()
            await go_on.wait()
        done += 1
        under_way.remove(items)
        return items

    batcher: Batcher[int, int] = Batcher(
        make_home(), flush, name="test", max_items=2, max_in_flight=1, max_when_slow=3, key_of=lambda item: item % 10
    )
    results: list[int] = []

    async def call(number: int) -> None:
        results.append(await batcher.submit(number))

    async with anyio.create_task_group() as group:
        for number in range(22):
            group.start_soon(call, number)
        with anyio.fail_after(30):
            await limit_reached.wait()
        await anyio.sleep(0.05)
        assert len({item % 10 for items in under_way for item in items}) == 2 * expected
        assert batcher.in_flight == expected
        assert batcher.waiting == 20 - 2 * expected
        go_on.set()
    assert sorted(results) == list(range(22))
    assert most == expected
    assert not batcher.busy


async def test_without_such_a_limit_slow_flushes_count_like_others() -> None:
    sizes: list[int] = []
    begun, go_on = anyio.Event(), anyio.Event()

    async def flush(items: list[int]) -> Sequence[int]:
        sizes.append(len(items))
        begun.set()
        await go_on.wait()
        return items

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test", max_items=1, max_in_flight=1)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(batcher.submit, number)
        await begun.wait()
        await anyio.sleep(0.1)
        assert (batcher.in_flight, batcher.waiting) == (1, 2)
        go_on.set()
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize(("writes", "error"), [(False, BackendUnavailable), (True, OutcomeUnknownError)])
async def test_callers_of_a_flush_that_is_cut_off_learn_what_is_known(writes: bool, error: type[Exception]) -> None:
    begun = anyio.Event()

    async def flush(items: list[int]) -> Sequence[int]:
        begun.set()
        await anyio.sleep_forever()
        return items

    home = make_home()
    batcher: Batcher[int, int] = Batcher(home, flush, name="test", writes=writes)
    errors: list[Exception] = []

    async def call() -> None:
        try:
            await batcher.submit(1)
        except Exception as caught:
            errors.append(caught)

    async with anyio.create_task_group() as group:
        group.start_soon(call)
        await begun.wait()
        await home.cancel_tasks(1)
    assert [type(caught) for caught in errors] == [error]


@pytest.mark.parametrize("gathers", [False, True])
async def test_with_gathers_the_callers_of_one_flush_travel_with_those_who_waited(gathers: bool) -> None:
    batches: list[int] = []
    all_there = anyio.Event()

    async def flush(items: list[int]) -> Sequence[int]:
        batches.append(len(items))
        await all_there.wait()
        # Long enough for those whom the flush before has woken to send again.
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        return items

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test", max_in_flight=1, gathers=gathers)

    async def call_again_and_again() -> None:
        for number in range(20):
            await batcher.submit(number)

    async with anyio.create_task_group() as group:
        # While the first half is under way comes the second.
        for waiting in (0, 5):
            for _ in range(5):
                group.start_soon(call_again_and_again)
            while not batches or batcher.waiting < waiting:
                await anyio.lowlevel.checkpoint()
        all_there.set()
    assert sum(batches) == 200
    assert batches.count(10) >= 15 if gathers else batches.count(5) == 40


async def test_a_call_that_is_alone_does_not_wait_for_others() -> None:
    turns = 0

    async def flush(items: list[int]) -> Sequence[int]:
        return items

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    batcher: Batcher[int, int] = Batcher(make_home(), flush, name="test", gathers=True)
    async with anyio.create_task_group() as group:
        group.start_soon(count)
        await batcher.submit(1)
        assert turns < 10
        assert await batcher.drain(5)
        group.cancel_scope.cancel()
