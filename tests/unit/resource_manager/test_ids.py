"""New ids are UUIDv7: ordered in time, never twice, also from many threads and after a fork."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

from specstar.resource_manager.ids import id_after, new_id


def _some(count: int) -> list[str]:
    return [new_id() for _ in range(count)]


def test_new_ids_are_version_7_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= after + 1


def test_new_ids_are_canonical_and_in_order() -> None:
    made = _some(20_000)
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(str(uuid.UUID(resource_id)) == resource_id for resource_id in made)
    assert {resource_id[19] for resource_id in made} == set("89ab")


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(8) as threads:
        made = [resource_id for part in threads.map(_some, [2000] * 8) for resource_id in part]
    assert len(set(made)) == len(made)


def test_a_forked_child_makes_other_random_parts() -> None:
    new_id()
    with get_context("fork").Pool(1) as child:
        theirs = child.apply(_some, (100,))
    ours = _some(100)
    assert not {resource_id[19:] for resource_id in ours} & {resource_id[19:] for resource_id in theirs}


def test_an_id_after_one_of_a_clock_that_is_ahead_sorts_behind_it() -> None:
    ordinary = new_id()
    assert ordinary < id_after(ordinary) < new_id()
    earlier = f"{(time.time_ns() // 1_000_000 + 60_000) >> 16:08x}-ffff-7fff-8000-0123456789ab"
    made = [earlier]
    for _ in range(5000):  # over the end of a millisecond
        made.append(id_after(made[-1]))
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(uuid.UUID(later).version == 7 and str(uuid.UUID(later)) == later for later in made)
    assert made[0] not in {new_id(), made[-1]}
    assert new_id() < made[0]  # the clock of this process is not moved on by that


def test_an_id_after_a_change_sorts_behind_those_that_were_moved_on_at_that_time() -> None:
    changed = datetime.now(UTC) + timedelta(hours=1)
    latest = f"{int(changed.timestamp() * 1000) >> 16:08x}-{int(changed.timestamp() * 1000) & 0xFFFF:04x}"
    made = id_after(new_id(), changed=changed, revisions=5)
    assert made.startswith(latest)
    assert uuid.UUID(made).version == 7
    assert made < id_after(new_id(), changed=changed, revisions=10)
    past = datetime(1960, 1, 1, tzinfo=UTC)
    assert new_id() < id_after("z", changed=past) < new_id()


def test_an_id_after_one_of_another_form_is_new() -> None:
    for earlier in ("z", "", "ffffffff-ffff-7fff-bfff-ffffffffffff", "FFFFFFFF-0000-7000-8000-000000000000"):
        assert uuid.UUID(id_after(earlier)).version == 7
