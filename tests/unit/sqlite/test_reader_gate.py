"""Readers that are held back until the log can begin anew."""

from __future__ import annotations

import threading
import time

from specstar.backends.sqlite.reader_gate import ReaderGate


def test_nobody_enters_a_closed_gate_until_it_is_opened() -> None:
    gate = ReaderGate()
    assert gate.clear(0.0)
    entered = threading.Event()

    def read() -> None:
        with gate.reading():
            entered.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert not entered.wait(0.1)
    gate.open()
    reader.join(5)
    assert entered.is_set()


def test_those_inside_are_waited_for_and_the_gate_opens_if_they_stay() -> None:
    gate = ReaderGate()
    leave = threading.Event()
    inside = threading.Event()

    def read() -> None:
        with gate.reading():
            inside.set()
            leave.wait(10)

    reader = threading.Thread(target=read)
    reader.start()
    inside.wait(5)
    assert not gate.clear(0.05)
    with gate.reading():
        pass
    threading.Timer(0.05, leave.set).start()
    assert gate.clear(5.0)
    reader.join(5)


def test_a_gate_that_nobody_opens_opens_by_itself() -> None:
    gate = ReaderGate()
    assert gate.clear(0.0)
    gate._closed_until = time.monotonic() + 0.05
    with gate.reading():
        assert time.monotonic() >= gate._closed_until - 0.01
