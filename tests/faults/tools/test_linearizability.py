"""The checker itself."""

from __future__ import annotations

from typing import Any

import pytest

from tests.faults.tools.linearizability import Call, explain, is_linearizable


def step(state: Any, call: Call) -> tuple[bool, Any]:
    """A register with compare-and-swap."""
    if call.kind == "read":
        return call.answer == state, state
    expected, new = call.arguments
    if state == expected:
        return call.answer in (True, None), new
    return call.answer in (False, None), state


def read(answer: int, begin: float, end: float) -> Call:
    return Call("read", (), answer, begin, end)


def swap(expected: int, new: int, answer: bool | None, begin: float, end: float = float("inf")) -> Call:
    return Call("swap", (expected, new), answer, begin, end, known=answer is not None)


HISTORIES = {
    "one after the other": (True, [read(0, 0, 1), swap(0, 1, True, 2, 3), read(1, 4, 5)]),
    "a read beside a write sees either": (True, [swap(0, 1, True, 0, 10), read(0, 1, 2), read(1, 3, 4)]),
    "never backwards": (False, [swap(0, 1, True, 0, 10), read(1, 1, 2), read(0, 3, 4)]),
    "a read that began after a write sees it": (False, [swap(0, 1, True, 0, 1), read(0, 2, 3)]),
    "only one of two swaps wins": (False, [swap(0, 1, True, 0, 5), swap(0, 2, True, 1, 6)]),
    "one of two swaps wins": (True, [swap(0, 1, True, 0, 5), swap(0, 2, False, 1, 6), read(1, 7, 8)]),
    "refused without a reason": (False, [swap(0, 1, False, 0, 1)]),
    "an unknown one was made": (True, [swap(0, 1, None, 0), read(1, 5, 6)]),
    "an unknown one was not made": (True, [swap(0, 1, None, 0), read(0, 5, 6), swap(0, 2, True, 7, 8)]),
    "an unknown one is made late": (True, [swap(0, 1, None, 0), read(0, 5, 6), read(1, 7, 8)]),
    "an unknown one is not undone": (False, [swap(0, 1, None, 0), read(1, 5, 6), read(0, 7, 8)]),
    "nothing comes before its beginning": (False, [read(1, 0, 1), swap(0, 1, True, 2, 3)]),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_histories(name: str) -> None:
    expected, history = HISTORIES[name]
    assert is_linearizable(history, 0, step) is expected, explain(history)


def test_many_overlapping_calls_are_decided_quickly() -> None:
    history = [swap(number, number + 1, True, 0, 100) for number in range(14)]
    assert is_linearizable([*history, read(14, 101, 102)], 0, step)
    assert not is_linearizable([*history, read(13, 101, 102)], 0, step)
