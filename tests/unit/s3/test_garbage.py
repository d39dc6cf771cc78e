"""What garbage collection may remove when metadata is in the bucket, and what must stay until it is pushed there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from specstar import SpecStar
from specstar.backends.s3.blob_uploads import Uploads
from specstar.errors import ResourceNotFoundError, RevisionConflictError
from specstar.resource_manager import ResourceManager
from tests.faults.tools.scripted_s3 import ScriptedS3

pytestmark = pytest.mark.anyio

OF_ANY_AGE = -1e9  # the scripted server lives in the future


class Note(msgspec.Struct):
    text: str


def notes_at(server: ScriptedS3, **options: Any) -> tuple[SpecStar, ResourceManager[Note]]:
    """A program of its own over the bucket."""
    given = {
        "bucket": "bucket",
        "endpoint_url": server.endpoint_url,
        "access_key_id": "key",
        "secret_access_key": "secret",
        **options,
    }
    s3 = {"type": "s3", "options": given}
    spec = SpecStar()
    spec.configure(backend={"meta": s3, "resource": s3, "blob": s3})
    return spec, spec.add_model(Note)


@pytest.mark.parametrize("options", [{"check_etag_on_read": False}, {"check_etag_on_read": True}])
async def test_what_others_wrote_is_no_garbage_however_old_the_local_copy(
    server: ScriptedS3, options: dict[str, Any]
) -> None:
    (one, old), (other, notes) = notes_at(server, **options), notes_at(server)
    async with one, other:
        await old.create(Note("first"), resource_id="a")
        await notes.create(Note("second"), resource_id="b")
        assert await old.collect_garbage(older_than_seconds=OF_ANY_AGE) == 0
        assert (await notes.get("b")).data == Note("second")


async def test_local_writes_that_conflict_refuse_garbage_collection(server: ScriptedS3) -> None:
    (one, local), (other, notes) = notes_at(server, auto_sync=False), notes_at(server)
    async with one, other:
        await local.create(Note("first"), resource_id="a")
        await local.sync()
        await notes.create(Note("second"), resource_id="b")
        await local.create(Note("third"), resource_id="c")
        with pytest.raises(RevisionConflictError):
            await local.collect_garbage(older_than_seconds=OF_ANY_AGE)
        assert (await notes.get("b")).data == Note("second")


async def test_what_a_local_write_replaces_stays_until_that_write_is_pushed(server: ScriptedS3) -> None:
    (one, local), (other, notes) = notes_at(server, auto_sync=False), notes_at(server)
    async with one, other:
        await local.create(Note("draft"), resource_id="a", status="draft")
        await local.create(Note("erased"), resource_id="b")
        await local.sync()
        await local.modify("a", Note("draft, again"))
        await local.permanently_delete("b")
        # As others see it, and this program itself after a `kill -9`.
        assert (await notes.get("a")).data == Note("draft")
        assert (await notes.get("b")).data == Note("erased")
        # Pushes first.
        assert await local.collect_garbage(older_than_seconds=OF_ANY_AGE) == 2
        assert (await notes.get("a")).data == Note("draft, again")
        with pytest.raises(ResourceNotFoundError):
            await notes.get("b")


async def test_a_collector_that_stood_still_leaves_a_session_that_went_on_meanwhile(
    server: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, _), (other, _) = notes_at(server), notes_at(server)
    async with one, other:
        session = await one.blobs.create_upload()
        asked = Uploads.may_come

        async def goes_on_before(*arguments: Any) -> bool:
            await one.blobs.upload(session.upload_id, b"part")
            [chunk] = [key for key in server.objects if "/chunk-" in key]
            server.times[chunk] = -2 * OF_ANY_AGE
            return await asked(*arguments)

        monkeypatch.setattr(Uploads, "may_come", goes_on_before)
        assert await other.blobs.collect_garbage(older_than_seconds=OF_ANY_AGE) == 0
        held = {key.rpartition("/")[2] for key in server.objects if session.upload_id in key}
        assert held == {"session", "chunk-0000000001"}
