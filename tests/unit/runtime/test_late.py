"""How long something took, where clocks are set and machines are suspended."""

from __future__ import annotations

import pytest

from specstar.errors import BackendUnavailable, OutcomeUnknownError
from specstar.runtime import Elapsed, put_again
from tests.unit.wrong_clocks import WrongClocks


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> WrongClocks:
    return WrongClocks(monkeypatch)


@pytest.mark.parametrize(
    ("wall", "steady", "seconds"),
    [(5.0, 5.0, 5.0), (3600.0, 0.1, 3600.0), (-3600.0, 400.0, 400.0), (-3600.0, 0.1, 0.1)],
    ids=["right", "restored from a snapshot", "set back", "set back at once"],
)
def test_the_clock_that_says_most_counts(clocks: WrongClocks, wall: float, steady: float, seconds: float) -> None:
    began = Elapsed()
    clocks.go_on(wall, steady)
    assert began.seconds() == pytest.approx(seconds)


@pytest.mark.parametrize(("seconds", "times"), [(60.0, 0), (3600.0, 1)])
async def test_what_is_late_is_put_again(clocks: WrongClocks, seconds: float, times: int) -> None:
    puts: list[float] = []

    async def put() -> None:
        puts.append(clocks.wall)

    began = Elapsed()
    clocks.go_on(seconds, seconds)
    await put_again(began, put)
    assert len(puts) == times


async def test_a_payload_that_cannot_be_put_again_leaves_an_outcome_that_is_unknown(clocks: WrongClocks) -> None:
    async def put() -> None:
        raise BackendUnavailable("away", role="resource", backend="s3")

    began = Elapsed()
    clocks.go_on(3600.0, 0.0)
    with pytest.raises(OutcomeUnknownError, match="away"):
        await put_again(began, put)
