"""When a cron expression is due, by clocks that are changed; and which expressions and zones are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specstar import Job, SpecStar
from specstar.errors import InvalidInputError, LimitExceededError
from specstar.message_queue.cron import Cron
from specstar.message_queue.schedule import Every
from specstar.sync import SpecStar as SyncSpecStar
from tests.conformance.jobs.harness import Mail

# Beside full hours, and at midnight, and by two hours: clocks are changed in many ways.
ZONES = [
    "Europe/Berlin",
    "America/Havana",
    "Africa/Cairo",
    "Antarctica/Troll",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "UTC",
]


def times(expression: str, zone: str, start: str, count: int) -> list[str]:
    """The first times after the start, as the clocks of the zone show them."""
    cron = Cron(expression, zone)
    moment: float = datetime.fromisoformat(start).timestamp()
    found = []
    for _ in range(count):
        moment = cron.after(moment)
        found.append(datetime.fromtimestamp(moment, ZoneInfo(zone)).isoformat(" ", "seconds"))
    return found


async def handle(job: Job[Mail]) -> None: ...


def test_times_are_those_of_the_zone() -> None:
    assert times("0 6 * * mon-fri", "Europe/Berlin", "2026-11-26T12:00:00Z", 3) == [
        "2026-11-27 06:00:00+01:00",
        "2026-11-30 06:00:00+01:00",
        "2026-12-01 06:00:00+01:00",
    ]
    assert times("0 6 * * mon-fri", "UTC", "2026-11-27T06:00:00Z", 1) == ["2026-11-30 06:00:00+00:00"]
    assert times("0 0 29 2 *", "Asia/Tokyo", "2026-01-01T00:00:00Z", 1) == ["2028-02-29 00:00:00+09:00"]
    assert times("0 12 L * *", "America/New_York", "2026-02-01T00:00:00Z", 1) == ["2026-02-28 12:00:00-05:00"]


def test_six_fields_begin_with_the_second() -> None:
    assert times("*/20 30 6 * * *", "UTC", "2026-11-27T06:30:00.5Z", 3) == [
        "2026-11-27 06:30:20+00:00",
        "2026-11-27 06:30:40+00:00",
        "2026-11-28 06:30:00+00:00",
    ]


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        # At the moment when the clocks go from two to three.
        ("30 2 * * *", ["29 03:00:00+02:00", "30 02:30:00+02:00"]),
        ("15,45 2 * * *", ["29 03:00:00+02:00", "30 02:15:00+02:00"]),
        ("10 30 2 * * *", ["29 03:00:00+02:00", "30 02:30:10+02:00"]),
        ("30 1-3 * * *", ["29 01:30:00+01:00", "29 03:00:00+02:00", "29 03:30:00+02:00"]),
        ("0 2,3 * * *", ["29 03:00:00+02:00", "30 02:00:00+02:00"]),
        # Shown by no clock.
        ("*/30 2 * * *", ["30 02:00:00+02:00", "30 02:30:00+02:00"]),
        ("30 * * * *", ["29 00:30:00+01:00", "29 01:30:00+01:00", "29 03:30:00+02:00"]),
        ("*/40 * * * *", ["29 00:00:00+01:00", "29 00:40:00+01:00", "29 01:00:00+01:00", "29 01:40:00+01:00"]),
    ],
)
def test_when_clocks_are_set_forward(expression: str, found: list[str]) -> None:
    assert [
        time.removeprefix("2026-03-")
        for time in times(expression, "Europe/Berlin", "2026-03-28T23:59:59+01:00", len(found))
    ] == found


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("30 2 * * *", ["25 02:30:00+02:00", "26 02:30:00+01:00"]),
        ("0 3 * * *", ["25 03:00:00+01:00", "26 03:00:00+01:00"]),
        ("10 30 2 * * *", ["25 02:30:10+02:00", "26 02:30:10+01:00"]),
        (
            "*/30 2 * * *",
            ["25 02:00:00+02:00", "25 02:30:00+02:00", "25 02:00:00+01:00", "25 02:30:00+01:00", "26 02:00:00+01:00"],
        ),
        ("30 * * * *", ["25 01:30:00+02:00", "25 02:30:00+02:00", "25 02:30:00+01:00", "25 03:30:00+01:00"]),
    ],
)
def test_when_clocks_are_set_back(expression: str, found: list[str]) -> None:
    assert [
        time.removeprefix("2026-10-")
        for time in times(expression, "Europe/Berlin", "2026-10-25T01:00:00+02:00", len(found))
    ] == found


def test_in_the_second_of_two_equal_hours_nothing_is_due_that_was_in_the_first() -> None:
    """The clock shows 2:15 then, before 2:30, and has shown 2:30 already."""
    assert times("30 2 * * *", "Europe/Berlin", "2026-10-25T02:15:00+01:00", 1) == ["2026-10-26 02:30:00+01:00"]


@given(
    zone=st.sampled_from(ZONES),
    day=st.sampled_from(
        ["2026-03-29", "2026-10-25", "2026-04-05", "2026-09-27", "2026-10-04", "2026-04-24", "2026-11-01"]
    ),
    minute=st.sampled_from(["*", "*/19", "0", "30", "15,50"]),
    hour=st.sampled_from(["*", "0", "1,3", "2", "*/2", "0-4"]),
    seconds=st.integers(-6 * 3600, 12 * 3600),
)
def test_ticks_are_those_that_a_look_at_the_clock_each_minute_gives(
    zone: str, day: str, minute: str, hour: str, seconds: int
) -> None:
    cron = Cron(f"{minute} {hour} * * *", zone)
    moment = datetime.fromisoformat(f"{day}T00:00:00Z").timestamp() + seconds
    tick = cron.after(moment)
    assert tick == _looked_up(cron, moment, tick)
    # Whoever begins to wait later waits for the same one.
    assert {cron.after(moment + (tick - moment) * part) for part in (0.3, 0.7, 0.999)} == {tick}
    assert cron.latest(tick, tick + 30_000.5) == _stepped(cron, tick, tick + 30_000.5)


def _looked_up(cron: Cron, moment: float, at_most: int) -> int | None:
    zone = UTC if cron.timezone == "UTC" else ZoneInfo(str(cron.timezone))
    names_times = "*" not in {field[0] for field in str(cron.cron).split()[:2]}
    minutes, hours = (_values(field, most) for field, most in zip(str(cron.cron).split()[:2], (60, 24), strict=True))

    def fits(clock: datetime) -> bool:
        return clock.minute in minutes and clock.hour in hours

    for at in range(int(moment // 60 + 1) * 60, at_most + 1, 60):
        shown = datetime.fromtimestamp(at, zone)
        before = datetime.fromtimestamp(at - 60, zone).replace(tzinfo=None)
        left_out = int((shown.replace(tzinfo=None) - before) / timedelta(minutes=1)) - 1
        if fits(shown) and not (names_times and shown.fold):
            return at
        if names_times and any(fits(before + timedelta(minutes=later + 1)) for later in range(left_out)):
            return at
    return None


def _values(field: str, most: int) -> set[int]:
    first, _, step = field.partition("/")
    if first == "*":
        return set(range(0, most, int(step or 1)))
    start, dash, end = first.partition("-")
    return set(range(int(start), int(end) + 1)) if dash else {int(part) for part in first.split(",")}


def _stepped(cron: Cron, tick: int, now: float) -> tuple[int, int]:
    count = 0
    while (following := cron.after(tick)) <= now:
        tick, count = following, count + 1
    return tick, count


@pytest.mark.parametrize(
    ("expression", "now", "latest"),
    [
        # Shown an hour after a change: the times that were left out were none, or due at the change.
        ("* 2 * * *", "2026-03-29T03:05:00+02:00", "2026-03-28T02:59:00+01:00"),
        ("30 2 * * *", "2026-03-29T03:05:00+02:00", "2026-03-29T03:00:00+02:00"),
        ("30 2 * * *", "2026-10-25T02:15:00+01:00", "2026-10-25T02:30:00+02:00"),
        ("*/30 2 * * *", "2026-10-25T02:15:00+01:00", "2026-10-25T02:00:00+01:00"),
    ],
)
def test_the_latest_tick_beside_a_change_of_clocks(expression: str, now: str, latest: str) -> None:
    cron = Cron(expression, "Europe/Berlin")
    moment = datetime.fromisoformat(now).timestamp()
    tick = cron.after(moment - 86_400 * 3)
    assert cron.latest(tick, moment) == _stepped(cron, tick, moment)
    assert cron.latest(tick, moment)[0] == datetime.fromisoformat(latest).timestamp()


def test_the_latest_of_a_year_of_seconds_is_found_at_once() -> None:
    cron = Cron("* * * * * *", "Europe/Berlin")
    tick = cron.after(1_790_000_000)
    assert cron.latest(tick, tick + 31_536_000.5) == (tick + 31_536_000, 1000)


def test_a_tick_is_named_alike_in_all_processes() -> None:
    code = (
        "from specstar.message_queue.cron import Cron\n"
        "cron = Cron('0  6 * * Mon-Fri', 'Europe/Berlin')\nprint(cron.key(cron.after(1_790_000_000.25)))"
    )
    keys = set()
    for environment in ({"TZ": "Asia/Tokyo"}, {"TZ": "UTC"}):
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={**os.environ, **environment}
        )
        keys.add(done.stdout.strip())
    cron = Cron("0 6 * * mon-fri", "Europe/Berlin")
    assert keys == {cron.key(cron.after(1_790_010_000))} == {"cron 0 6 * * mon-fri Europe/Berlin: 1790049600"}


def test_the_ticks_of_other_schedules_have_other_names() -> None:
    long = ",".join(str(minute) for minute in range(60))
    schedules = [
        Every(60),
        Cron("* * * * *", "UTC"),
        Cron("* * * * *", "Europe/Berlin"),
        Cron("0 * * * * *", "UTC"),
        Cron(f"{long} * * * *", "America/Argentina/ComodRivadavia"),
        Cron(f"{long} */1 * * *", "America/Argentina/ComodRivadavia"),
    ]
    keys = [schedule.key(1_800_000_000) for schedule in schedules]
    assert len(set(keys)) == len(keys)
    assert max(map(len, keys)) < 250


def test_a_declared_job_says_when_it_is_due() -> None:
    for spec in (SpecStar(), SyncSpecStar()):
        queue: Any = spec.add_job(Mail, handle, cron=" 0 6  * * MON-FRI", timezone="Europe/Berlin")
        assert (queue.every, queue.cron, queue.timezone) == (None, "0 6 * * MON-FRI", "Europe/Berlin")
        plain: Any = spec.add_job(Mail, handle, name="plain", cron="0 6 * * *", every_payload=Mail(number=7))
        assert plain.timezone == "UTC"
        other: Any = spec.add_job(Mail, handle, name="other", every=60)
        assert (other.every, other.cron, other.timezone) == (60.0, None, None)


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        ({"cron": "0 6 * *"}, "cron", "wrong number of fields"),
        ({"cron": ""}, "cron", "wrong number of fields"),
        ({"cron": "@daily"}, "cron", "wrong number of fields"),
        ({"cron": "60 6 * * *"}, "cron", "bad minute"),
        ({"cron": "0 6 * * mon-fir"}, "cron", "bad day-of-week"),
        ({"cron": "61 0 6 * * *"}, "cron", "bad second"),
        ({"cron": f"0 {'9' * 900} * * *"}, "cron", "bad hour"),
        ({"cron": "0 0 30 2 *"}, "cron", "bad day-of-month"),
        ({"cron": "0 0 */20 * 1L"}, "cron", "never comes"),
        ({"cron": "0 6 \0 * *"}, "cron", "NUL"),
        ({"cron": 60}, "cron", "must be a str, not int"),
        ({"cron": "0 6 * * *", "timezone": "europe/berlin"}, "timezone", "did you mean 'Europe/Berlin'"),
        ({"cron": "0 6 * * *", "timezone": "Europe/Belrin"}, "timezone", "did you mean 'Europe/Berlin'"),
        ({"cron": "0 6 * * *", "timezone": ""}, "timezone", "no time zone is named ''"),
        ({"cron": "0 6 * * *", "timezone": "../etc/passwd"}, "timezone", "no time zone is named"),
        ({"cron": "0 6 * * *", "timezone": "localtime"}, "timezone", "no time zone is named 'localtime'"),
        ({"cron": "0 6 * * *", "timezone": 1}, "timezone", "must be a str, not int"),
        ({"cron": "0 6 * * *", "every": 60}, "cron", "not both"),
        ({"timezone": "UTC"}, "timezone", "not given"),
        ({"timezone": "UTC", "every": 60}, "timezone", "not given"),
    ],
)
def test_what_is_wrong_is_refused_when_the_job_is_declared(options: dict[str, Any], field: str, said: str) -> None:
    for spec in (SpecStar(), SyncSpecStar()):
        with pytest.raises(InvalidInputError) as caught:
            spec.add_job(Mail, handle, **options)
        assert said in str(caught.value)
        assert caught.value.field == field


def test_an_expression_has_a_limit() -> None:
    with pytest.raises(LimitExceededError, match="at most 1024"):
        Cron("0 " * 600, "UTC")


@given(st.lists(st.text(st.sampled_from("0159*/,-#LW?H xmonjan¹"), min_size=1, max_size=6), min_size=4, max_size=7))
def test_whatever_is_written_is_a_schedule_or_refused(fields: list[str]) -> None:
    try:
        cron = Cron(" ".join(fields), "Europe/Berlin")
    except InvalidInputError:
        return
    first = cron.after(1_790_000_000)
    assert 1_790_000_000 < first < cron.following(first)


@pytest.mark.parametrize(
    ("before", "package"),
    [
        ("import sys; sys.modules['cronsim'] = None", "cronsim"),
        ("import sys, zoneinfo; zoneinfo.reset_tzpath([]); sys.modules['tzdata'] = None", "tzdata"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(before: str, package: str) -> None:
    code = (
        f"{before}\nfrom specstar import SpecStar\nfrom specstar.errors import MissingDependencyError\n"
        "try:\n    SpecStar().add_job(int, print, name='a', every_payload=1, cron='0 6 * * *', timezone='Asia/Tokyo')\n"
        "except MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"'{package}' is not installed" in done.stdout
    assert "specstar[cron]" in done.stdout


def test_zones_are_known_without_those_of_the_system() -> None:
    code = (
        "from specstar.message_queue.cron import Cron\nprint(Cron('30 2 * * *', 'Europe/Berlin').after(1_774_738_800))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONTZPATH": ""}
    )
    assert int(done.stdout) == datetime(2026, 3, 29, 1, tzinfo=UTC).timestamp()


def test_the_library_is_imported_on_first_use() -> None:
    code = (
        "import sys\nfrom specstar import SpecStar\nSpecStar().add_job(int, print, name='a', every_payload=1, every=60)\n"
        "assert not {'cronsim', 'specstar.message_queue.cron'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
