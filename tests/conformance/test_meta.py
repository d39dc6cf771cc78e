"""The contract of `MetaStore`, without its searches."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from specstar.errors import DecodeError, DuplicateResourceError, ResourceNotFoundError, RevisionConflictError
from specstar.query import build_query
from specstar.roles import MetaStore, MetaWrite, ResourceMeta, RevisionStatus
from tests.conformance.harness import Bench
from tests.conformance.samples import HOSTILE_IDS, HOSTILE_MODELS, changed, created, model, revised

SUITE = "meta"


@pytest.fixture
async def meta(bench: Bench) -> MetaStore:
    return await bench.meta(model())


async def test_a_written_row_comes_back_whole(meta: MetaStore) -> None:
    change = created(name="Ann", age=41, active=True, tags=["x", "y"], address__city="Bern", any=None)
    await meta.write(change)
    assert await meta.get(change.meta.resource_id) == change.meta
    assert await meta.get_with_revision(change.meta.resource_id) == (change.meta, change.revision)


async def test_a_row_with_empty_optional_fields_comes_back(meta: MetaStore) -> None:
    change = created()
    bare = msgspec.structs.replace(change.meta, created_by="", updated_by="", schema_version=None, indexed_data={})
    await meta.write(MetaWrite(bare, change.revision, None))
    assert await meta.get(bare.resource_id) == bare


async def test_indexed_values_keep_their_kinds(meta: MetaStore) -> None:
    values = [0, -1, 2**63 - 1, -(2**63), 0.5, -1e300, 5e-324, True, False, None, "", "1", "é", "'\"\\", [1, "1", None]]
    change = created(**{f"f{number}": value for number, value in enumerate(values)})
    await meta.write(change)
    found = await meta.get(change.meta.resource_id)
    assert found is not None
    kept = [found.indexed_data[f"f{number}"] for number in range(len(values))]
    assert [(type(value), value) for value in kept] == [(type(value), value) for value in values]


async def test_what_is_not_there_is_none(meta: MetaStore) -> None:
    assert await meta.get("no") is None
    assert await meta.get_with_revision("no") is None
    assert await meta.get_with_revision("no", "rev") is None
    assert await meta.get_many(["no", "nor"]) == [None, None]
    assert await meta.get_many_with_revision(["no"]) == [None]
    assert await meta.list_revisions("no") == []
    assert await meta.erase("no") is None
    assert await meta.erase("no", expected_version=3) is None
    assert await meta.get_many([]) == []
    assert await meta.get_many_with_revision([]) == []
    assert await meta.write_many([]) == []


async def test_a_new_resource_must_be_new(meta: MetaStore) -> None:
    first = created("same", age=1)
    await meta.write(first)
    with pytest.raises(DuplicateResourceError) as caught:
        await meta.write(created("same", age=2))
    assert caught.value.resource_id == "same"
    assert await meta.get("same") == first.meta
    assert await meta.list_revisions("same") == [first.revision]


async def test_a_deleted_resource_still_takes_its_id(meta: MetaStore) -> None:
    await meta.write(created("gone", deleted=True))
    with pytest.raises(DuplicateResourceError):
        await meta.write(created("gone"))


async def test_a_conditional_write_replaces_the_row_and_adds_the_revision(meta: MetaStore) -> None:
    first = created("r", age=1)
    second = revised(first, age=2)
    await meta.write(first)
    await meta.write(second)
    assert await meta.get_with_revision("r") == (second.meta, second.revision)
    assert first.revision is not None
    assert await meta.get_with_revision("r", first.revision.revision_id) == (second.meta, first.revision)
    assert await meta.list_revisions("r") == [first.revision, second.revision]


async def test_a_lost_race_is_refused_and_tells_the_actual_revision(meta: MetaStore) -> None:
    first = created("r", age=1)
    second = revised(first, age=2)
    await meta.write(first)
    await meta.write(second)
    with pytest.raises(RevisionConflictError) as caught:
        await meta.write(revised(first, age=3))
    assert caught.value.resource_id == "r"
    assert caught.value.actual_revision_id == second.meta.current_revision_id
    assert await meta.get("r") == second.meta
    assert len(await meta.list_revisions("r")) == 2


async def test_a_change_of_a_missing_resource_is_refused(meta: MetaStore) -> None:
    with pytest.raises(ResourceNotFoundError) as caught:
        await meta.write(revised(created("never written")))
    assert caught.value.resource_id == "never written"
    assert await meta.list_revisions("never written") == []


async def test_a_change_of_the_row_alone_leaves_revisions_alone(meta: MetaStore) -> None:
    first = created("r")
    deleted = changed(first, is_deleted=True)
    await meta.write(first)
    await meta.write(deleted)
    assert await meta.get_with_revision("r") == (deleted.meta, first.revision)
    assert await meta.list_revisions("r") == [first.revision]


async def test_switching_back_points_to_the_older_revision(meta: MetaStore) -> None:
    first = created("r", age=1)
    second = revised(first, age=2)
    back = changed(second, current_revision_id=first.meta.current_revision_id)
    for change in (first, second, back):
        await meta.write(change)
    assert await meta.get_with_revision("r") == (back.meta, first.revision)
    assert await meta.get_many_with_revision(["r"]) == [(back.meta, first.revision)]
    assert await meta.list_revisions("r") == [first.revision, second.revision]


async def test_a_revision_written_again_replaces_its_record(meta: MetaStore) -> None:
    first = created("r")
    assert first.revision is not None
    draft = msgspec.structs.replace(first.revision, status=RevisionStatus.draft)
    await meta.write(first._replace(revision=draft))
    rewritten = msgspec.structs.replace(draft, payload_id="p-new", size=99, status=RevisionStatus.stable)
    change = MetaWrite(msgspec.structs.replace(first.meta, version=2), rewritten, 1)
    await meta.write(change)
    assert await meta.get_with_revision("r") == (change.meta, rewritten)
    assert await meta.list_revisions("r") == [rewritten]
    assert await meta.referenced([draft.payload_id, "p-new"]) == {"p-new"}


async def test_an_unknown_revision_leaves_the_row(meta: MetaStore) -> None:
    first = created("r")
    await meta.write(first)
    assert await meta.get_with_revision("r", "no such revision") == (first.meta, None)


async def test_revisions_are_listed_oldest_first(meta: MetaStore) -> None:
    last = created("r")
    await meta.write(last)
    expected = [last.revision]
    for _ in range(12):
        last = revised(last)
        await meta.write(last)
        expected.append(last.revision)
    assert await meta.list_revisions("r") == expected


async def test_many_are_read_in_the_order_asked_with_gaps_and_repeats(meta: MetaStore) -> None:
    changes = [created(f"m{number}") for number in range(5)]
    assert await meta.write_many(changes) == [None] * 5
    wanted = ["m3", "no", "m0", "m3"]
    rows = {change.meta.resource_id: (change.meta, change.revision) for change in changes}
    assert await meta.get_many(wanted) == [rows["m3"][0], None, rows["m0"][0], rows["m3"][0]]
    assert await meta.get_many_with_revision(wanted) == [rows["m3"], None, rows["m0"], rows["m3"]]


async def test_write_many_answers_for_each_change(meta: MetaStore) -> None:
    old, stale = created("old"), created("stale")
    await meta.write(old)
    await meta.write(stale)
    newer = revised(stale)
    await meta.write(newer)
    changes = [created("new"), created("old"), revised(stale), revised(created("missing")), revised(old, age=5)]
    results = await meta.write_many(changes)
    assert results[0] is None
    assert isinstance(results[1], DuplicateResourceError)
    assert isinstance(results[2], RevisionConflictError)
    assert results[2].actual_revision_id == newer.meta.current_revision_id
    assert isinstance(results[3], ResourceNotFoundError)
    assert results[4] is None
    assert await meta.get("new") == changes[0].meta
    assert await meta.get("old") == changes[4].meta
    assert await meta.get("stale") == newer.meta
    assert await meta.get("missing") is None


async def test_a_large_write_many_is_stored_whole(meta: MetaStore) -> None:
    changes = [created(f"big{number:05d}", name="x" * 200) for number in range(1500)]
    assert await meta.write_many(changes) == [None] * len(changes)
    assert await meta.count() == len(changes)
    assert await meta.get_many([change.meta.resource_id for change in changes]) == [change.meta for change in changes]


async def test_erasing_removes_row_and_revisions(meta: MetaStore) -> None:
    first = created("r")
    second = revised(first)
    other = created("other")
    for change in (first, second, other):
        await meta.write(change)
    assert sorted(await meta.erase("r") or (), key=lambda info: info.revision_id) == [first.revision, second.revision]
    assert await meta.get("r") is None
    assert await meta.list_revisions("r") == []
    assert await meta.count(include_deleted=True) == 1
    assert await meta.get("other") == other.meta
    await meta.write(created("r"))


async def test_erasing_can_be_conditional(meta: MetaStore) -> None:
    first = created("r")
    second = revised(first)
    await meta.write(first)
    await meta.write(second)
    with pytest.raises(RevisionConflictError) as caught:
        await meta.erase("r", expected_version=1)
    assert caught.value.actual_revision_id == second.meta.current_revision_id
    assert await meta.get("r") == second.meta
    assert len(await meta.erase("r", expected_version=2) or ()) == 2


async def test_referenced_names_the_payloads_that_revisions_point_to(meta: MetaStore) -> None:
    first = created("r")
    second = revised(first)
    await meta.write(first)
    await meta.write(second)
    assert first.revision is not None
    assert second.revision is not None
    known = {first.revision.payload_id, second.revision.payload_id}
    assert await meta.referenced([*known, "p-unknown", "'; --"]) == known
    assert await meta.referenced([]) == set()
    await meta.erase("r")
    assert await meta.referenced(sorted(known)) == set()


async def test_hostile_ids_are_kept_apart(meta: MetaStore) -> None:
    changes = [created(resource_id, age=number) for number, resource_id in enumerate(HOSTILE_IDS)]
    assert await meta.write_many(changes) == [None] * len(changes)
    assert await meta.get_many(HOSTILE_IDS) == [change.meta for change in changes]
    for change in changes:
        assert await meta.get_with_revision(change.meta.resource_id) == (change.meta, change.revision)
        assert await meta.list_revisions(change.meta.resource_id) == [change.revision]
    assert await meta.count() == len(HOSTILE_IDS)


async def test_hostile_users_and_versions_are_data(meta: MetaStore) -> None:
    for number, text in enumerate(HOSTILE_IDS):
        change = created(f"h{number}", name=text)
        row = msgspec.structs.replace(change.meta, created_by=text, updated_by=text, schema_version=text)
        await meta.write(MetaWrite(row, change.revision, None))
        assert await meta.get(row.resource_id) == row


async def test_models_with_similar_names_are_kept_apart(bench: Bench) -> None:
    stores = [await bench.meta(model(name)) for name in HOSTILE_MODELS]
    rows: list[ResourceMeta] = []
    for number, store in enumerate(stores):
        change = created("same id", age=number)
        await store.write(change)
        rows.append(change.meta)
    for store, row in zip(stores, rows, strict=True):
        assert await store.get("same id") == row
        assert await store.count() == 1


async def test_hundreds_of_concurrent_calls_each_get_their_own_answer(meta: MetaStore) -> None:
    changes = [created(f"c{number:04d}", age=number) for number in range(500)]
    outcomes: dict[int, object] = {}

    async def one(number: int) -> None:
        await meta.write(changes[number])
        outcomes[number] = await meta.get(changes[number].meta.resource_id)

    async with anyio.create_task_group() as group:
        for number in range(len(changes)):
            group.start_soon(one, number)
    assert outcomes == {number: change.meta for number, change in enumerate(changes)}
    assert await meta.count() == len(changes)


async def test_one_of_many_racing_writers_wins(meta: MetaStore) -> None:
    first = created("race")
    await meta.write(first)
    rivals = [revised(first, age=number) for number in range(40)]
    won: list[MetaWrite] = []
    lost: list[RevisionConflictError] = []

    async def one(change: MetaWrite) -> None:
        try:
            await meta.write(change)
            won.append(change)
        except RevisionConflictError as error:
            lost.append(error)

    async with anyio.create_task_group() as group:
        for change in rivals:
            group.start_soon(one, change)
    assert len(won) == 1
    assert len(lost) == len(rivals) - 1
    assert await meta.get("race") == won[0].meta
    assert {error.actual_revision_id for error in lost} == {won[0].meta.current_revision_id}


async def test_one_of_many_racing_creators_wins(meta: MetaStore) -> None:
    won: list[MetaWrite] = []

    async def one() -> None:
        change = created("race")
        try:
            await meta.write(change)
            won.append(change)
        except DuplicateResourceError as error:
            assert error.resource_id == "race"  # noqa: PT017  both outcomes are expected

    async with anyio.create_task_group() as group:
        for _ in range(40):
            group.start_soon(one)
    assert [change.meta for change in won] == [await meta.get("race")]


async def test_writes_of_one_key_take_effect_in_the_order_of_the_calls(meta: MetaStore) -> None:
    chain = [created("chain")]
    for _ in range(30):
        chain.append(revised(chain[-1]))
    await meta.write(chain[0])
    results: list[int] = []

    async def one(number: int) -> None:
        await meta.write(chain[number])
        results.append(number)

    async with anyio.create_task_group() as group:
        for number in range(1, len(chain)):
            group.start_soon(one, number)
            # On trio, tasks that start together run in any order.
            await anyio.lowlevel.checkpoint()
    assert await meta.get("chain") == chain[-1].meta
    assert await meta.list_revisions("chain") == [change.revision for change in chain]
    assert sorted(results) == list(range(1, len(chain)))


async def test_a_read_after_a_write_sees_it(meta: MetaStore) -> None:
    last = created("seen")
    await meta.write(last)
    for _ in range(20):
        last = revised(last)
        await meta.write(last)
        assert await meta.get("seen") == last.meta
        assert await meta.get_with_revision("seen") == (last.meta, last.revision)


async def test_a_cancelled_caller_leaves_its_neighbours_alone(meta: MetaStore) -> None:
    changes = [created(f"n{number:03d}") for number in range(60)]
    finished: list[int] = []
    scopes = {number: anyio.CancelScope() for number in range(0, 60, 3)}

    async def one(number: int) -> None:
        with scopes.get(number, anyio.CancelScope()):
            await meta.write(changes[number])
            finished.append(number)

    async with anyio.create_task_group() as group:
        for number in range(len(changes)):
            group.start_soon(one, number)
        await anyio.lowlevel.checkpoint()
        for scope in scopes.values():
            scope.cancel()
    assert set(finished) >= {number for number in range(60) if number % 3}
    rows = await meta.get_many([change.meta.resource_id for change in changes])
    for number, (change, row) in enumerate(zip(changes, rows, strict=True)):
        # Whole or not at all; and there, if it was acknowledged.
        assert row in ((change.meta,) if number in finished else (change.meta, None))
        expected = [] if row is None else [change.revision]
        assert await meta.list_revisions(change.meta.resource_id) == expected


async def test_rows_outlive_the_connection(bench: Bench, meta: MetaStore) -> None:
    if not bench.case.durable:
        await meta.write(created("r"))
        await bench.reopen()
        assert await (await bench.meta(model())).get("r") is None
        return
    first = created("r", name="é", age=1)
    second = revised(first, name="ü", age=2)
    await meta.write(first)
    await meta.write(second)
    await bench.reopen()
    again = await bench.meta(model())
    assert await again.get_with_revision("r") == (second.meta, second.revision)
    assert await again.list_revisions("r") == [first.revision, second.revision]
    await again.write(revised(second))
    with pytest.raises(DuplicateResourceError):
        await again.write(created("r"))


async def test_two_stores_of_one_model_see_each_other(bench: Bench, meta: MetaStore) -> None:
    other = await bench.meta(model())
    first = created("shared")
    await meta.write(first)
    assert await other.get("shared") == first.meta
    second = revised(first)
    await other.write(second)
    assert await meta.get("shared") == second.meta


async def test_a_row_whose_revision_is_gone_is_named(meta: MetaStore) -> None:
    await meta.write(created("whole"))
    await meta.write(MetaWrite(created("broken").meta, None, None))
    assert [row is not None for row in await meta.get_many_with_revision(["whole", "broken"])] == [True, False]
    with pytest.raises(DecodeError, match="broken"):
        await meta.search(build_query(None))
    assert await meta.erase("broken") == []
    assert [row.resource_id for row, _ in await meta.search(build_query(None))] == ["whole"]
