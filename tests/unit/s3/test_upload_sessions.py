"""Upload sessions of several processes, and on a server that fails on purpose."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

import anyio
import pytest

from specstar.errors import (
    BlobIntegrityError,
    BlobNotFoundError,
    InvalidInputError,
    OutcomeUnknownError,
    UsageError,
)
from specstar.roles import UploadSession
from tests.faults.tools.scripted_s3 import Fault, ScriptedS3
from tests.unit.s3.rig import opened, options_for

pytestmark = pytest.mark.anyio

Script = Callable[[str, str, int], Fault | None]


def once(fault: Fault) -> Script:
    """The fault for the first PUT."""
    faults = [fault]
    return lambda method, key, number: faults.pop() if faults and method == "PUT" else None


def nothing(method: str, key: str, number: int) -> Fault | None:
    return None


async def test_an_appended_chunk_is_there_once_though_its_answer_was_lost(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig, opened(rig.options) as there:
        blobs, others = rig.blob(), there.blob()
        session = await blobs.create_upload(content_type="a/b")
        for number in range(5):
            server.script = once(Fault(when="after"))
            await blobs.upload(session.upload_id, f"{number}".encode())
        server.script = nothing
        # The next number of each is the other's by then.
        for number in range(5, 9):
            await (others if number % 2 else blobs).upload(session.upload_id, f"{number}".encode())
        info = await blobs.finalize(session.upload_id)
        assert await blobs.get(info.file_id) == b"012345678"
        assert await blobs.finalize(session.upload_id) == info
        with pytest.raises(UsageError, match="finalized"):
            await blobs.upload(session.upload_id, b"9")


async def test_a_chunk_of_which_nobody_knows_whether_it_landed_is_told_as_that(server: ScriptedS3) -> None:
    """Sent again by the caller it might be in the blob twice."""
    async with opened(options_for(server.endpoint_url, max_attempts=2)) as rig:
        blobs = rig.blob()
        session = await blobs.create_upload(content_type="a/b")
        server.script = lambda method, key, number: Fault(when="after") if "/chunk-" in key else None
        with pytest.raises(OutcomeUnknownError, match=f"belong to upload {session.upload_id} is not known.*abort it"):
            await blobs.upload(session.upload_id, b"0")
        server.script = nothing
        await blobs.abort(session.upload_id)
        with pytest.raises(BlobNotFoundError):
            await blobs.finalize(session.upload_id)


async def test_a_session_that_another_process_aborted_takes_no_more(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig, opened(rig.options) as there:
        blobs = rig.blob()
        session = await blobs.create_upload(content_type="a/b")
        await blobs.upload(session.upload_id, b"0")
        await there.blob().abort(session.upload_id)
        for call in (blobs.upload(session.upload_id, b"1"), blobs.finalize(session.upload_id)):
            with pytest.raises(BlobNotFoundError, match=session.upload_id):
                await call


async def test_a_session_whose_record_is_damaged_can_only_be_aborted(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        session = await rig.blob().create_upload(content_type="a/b")
        (name,) = [name for name in server.objects if name.endswith("/session")]
        server.put(name, b'{"method": ')
        for call in (rig.blob().upload(session.upload_id, b"0"), rig.blob().finalize(session.upload_id)):
            with pytest.raises(BlobIntegrityError, match=f"the record of upload {session.upload_id} is damaged"):
                await call
        await rig.blob().abort(session.upload_id)


async def test_a_client_that_uploads_again_meanwhile_is_noticed(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, upload_method="single_put")) as rig:
        blobs = rig.blob()
        session = await blobs.create_upload(content_type="a/b")
        with pytest.raises(InvalidInputError, match="takes its bytes by a PUT to its url"):
            await blobs.upload(session.upload_id, b"0")
        await _send(session, b"first")
        (name,) = [name for name in server.objects if name.endswith("/data")]

        def again(method: str, key: str, number: int) -> Fault | None:
            if method == "GET" and key == name:
                server.put(name, b"second")
            return None

        server.script = again
        with pytest.raises(BlobIntegrityError, match="uploaded again meanwhile; finalize once more"):
            await blobs.finalize(session.upload_id)
        server.script = nothing
        info = await blobs.finalize(session.upload_id)
        assert await blobs.get(info.file_id) == b"second"


async def _send(session: UploadSession, data: bytes) -> None:
    """As a client does, which knows nothing but what the session says."""
    assert session.url is not None
    request = urllib.request.Request(session.url, data=data, headers=dict(session.headers), method="PUT")
    with await anyio.to_thread.run_sync(urllib.request.urlopen, request) as answer:
        assert answer.status == 200
