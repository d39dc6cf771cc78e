"""How often an outage is told of."""

from __future__ import annotations

import time

import pytest

from specstar.runtime import Outage


def test_an_outage_is_told_of_at_once_then_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    outage = Outage()
    assert outage.works() is None
    told = []
    for second in range(0, 20_000, 5):
        now = 1000.0 + second
        if (lasted := outage.fails()) is not None:
            told.append(lasted)
    assert told == [0, 60, 120, 240, 480, 960, 1920, 3840, 7440, 11040, 14640, 18240]
    assert outage.works() == 19_995
    assert outage.works() is None
    assert outage.fails() == 0
