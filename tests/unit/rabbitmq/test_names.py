"""Names of queues, shards and delays."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specstar.backends.rabbitmq.names import (
    LONGEST_DELAY_SECONDS,
    QueueNames,
    delay_steps,
    longer_step,
    shard_of,
    step_of,
)
from specstar.errors import InvalidInputError, LimitExceededError

ANY_TEXT = st.text(st.characters(exclude_categories=[]), max_size=400)
# What the driver lets pass as the name of a queue.
ALLOWED = re.compile(r"[a-zA-Z0-9\-_.:@#,/+ ]{1,255}")


def every_name(prefix: str, job: str, *, delay_type: str = "quorum") -> list[str]:
    names = QueueNames(prefix, job, delay_type=delay_type)
    shard = names.shard(255)
    delays = [names.delay(target, 4_200_000_000, 86_400, 300) for target in (names.main, shard)]
    return [
        names.main,
        names.retry,
        names.dead,
        names.partitions,
        names.uptime,
        shard,
        names.aside(60_000, 86_400, 300),
        *delays,
    ]


@given(ANY_TEXT, st.sampled_from(["", "specstar:", "a", "p" * 60]))
def test_any_job_has_names_that_the_broker_takes(job: str, prefix: str) -> None:
    for name in every_name(prefix, job):
        assert ALLOWED.fullmatch(name)
        assert not name.startswith("amq.")


@given(ANY_TEXT, ANY_TEXT)
def test_two_jobs_share_no_name(one: str, other: str) -> None:
    if one != other:
        assert not set(every_name("x", one)) & set(every_name("x", other))


@pytest.mark.parametrize(
    ("prefix", "job", "expected"),
    [
        ("specstar:", "send_email", "specstar:send_email"),
        ("specstar:", "a b:retry", "specstar:a@20b@3Aretry"),
        ("specstar:", "ä", "specstar:@C3@A4"),
        ("specstar:", "", "specstar:@"),
        ("", "amq.rabbitmq", "amq@2Erabbitmq"),
    ],
)
def test_names_are_readable(prefix: str, job: str, expected: str) -> None:
    assert QueueNames(prefix, job).main == expected


@pytest.mark.parametrize(
    ("work", "delay", "mark"),
    [("classic", "classic", ""), ("classic", "quorum", ":q"), ("quorum", "quorum", ""), ("quorum", "classic", ":c")],
)
def test_queues_in_which_messages_wait_say_so_where_their_type_is_another(work: str, delay: str, mark: str) -> None:
    names = QueueNames("x:", "job", work_type=work, delay_type=delay)
    assert (names.main, names.dead, names.retry) == ("x:job", "x:job:dead", f"x:job:retry{mark}")
    assert names.delay(names.main, 50, 300, 300) == f"x:job:delay:50{mark}"
    assert names.aside(50, 300, 300) == f"x:job:aside:50{mark}"
    assert names.aside(50, 60, 300) == f"x:job:aside:50:x60000{mark}"
    assert names.delay(names.shard(3), 50, 60, 300) == f"x:job:part:3:delay:50:x60000{mark}"


def test_a_long_name_is_cut_and_stays_unique() -> None:
    one, other = QueueNames("specstar:", "x" * 1000), QueueNames("specstar:", "x" * 1001)
    assert one.main != other.main
    assert one.main.startswith("specstar:xxxx")


def test_shards_are_part_of_the_stored_format() -> None:
    assert [shard_of(key, 16) for key in ("a", "customer-1", "", "ä")] == [3, 13, 0, 3]


@given(st.floats(0, LONGEST_DELAY_SECONDS))
def test_a_delay_is_never_short_and_at_most_a_tenth_late(delay: float) -> None:
    step = step_of(delay)
    assert step in delay_steps()
    assert step >= delay * 1000 - 0.001
    assert step <= max(10, delay * 1000 * 1.1 + 1)


@pytest.mark.parametrize(
    ("delay", "step"),
    [(0.001, 10), (0.25, 250), (0.29, 290), (1.5, 1500), (10, 10_000), (90, 90_000), (3600, 3_600_000), (1.234, 1300)],
)
def test_delays_of_two_digits_are_exact(delay: float, step: int) -> None:
    assert step_of(delay) == step


def test_delays_have_few_queues() -> None:
    steps = delay_steps()
    assert steps == sorted(set(steps))
    assert len(steps) < 800
    assert step_of(LONGEST_DELAY_SECONDS) == steps[-1]
    assert [longer_step(step) for step in steps] == [*steps[1:], None]
    # With the longest expiry a queue's life is still a number that the broker takes.
    assert steps[-1] + 86_400_000 < 2**32


@pytest.mark.parametrize("delay", [-0.1, float("nan"), float("inf")])
def test_no_length_of_time_is_refused(delay: float) -> None:
    with pytest.raises(InvalidInputError, match="delay"):
        step_of(delay)


def test_a_delay_beyond_the_limit_is_refused() -> None:
    with pytest.raises(LimitExceededError, match=r"at most 4,200,000 seconds, not 4,200,001"):
        step_of(LONGEST_DELAY_SECONDS + 1)
