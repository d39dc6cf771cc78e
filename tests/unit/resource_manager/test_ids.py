"""New ids are UUIDv7: ordered in time, never twice, also from many threads and after a fork."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

from specstar.resource_manager.ids import new_id


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
