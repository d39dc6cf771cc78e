"""Blobs and uploads, in the machine."""

from __future__ import annotations

import anyio
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from specstar.errors import BlobNotFoundError
from tests.faults.model.machine import Managers
from tests.faults.model.plain import PlainBlobs

__all__ = ["BlobRules"]

BYTES = {"nothing": b"", "one": b"x", "some": bytes(range(256)) * 30, "many": b"long" * 60_000}
NAMES = st.sampled_from(list(BYTES))


class BlobRules(Managers):
    """`spec.blobs`."""

    @rule(names=st.lists(NAMES, min_size=1, max_size=3))
    def put_blobs(self, names: list[str]) -> None:
        contents = [BYTES[name] for name in names]

        async def together() -> list[str]:
            ids: dict[int, str] = {}

            async def one(number: int, data: bytes) -> None:
                ids[number] = (await self.spec.blobs.put(data)).file_id

            async with anyio.create_task_group() as group:
                for number, data in enumerate(contents):
                    group.start_soon(one, number, data)
            return [ids[number] for number in range(len(contents))]

        assert self.call(together) == [self.blobs.put(data) for data in contents]

    @rule(name=NAMES, start=st.integers(0, 300), length=st.integers(0, 9000))
    def read_blob(self, name: str, start: int, length: int) -> None:
        data = BYTES[name]
        file_id = PlainBlobs().put(data)
        if file_id not in self.blobs.contents:
            assert not self.call(self.spec.blobs.exists, file_id)
            assert type(self.call(self.told, self.spec.blobs.get, file_id)) is BlobNotFoundError
            return
        expected = self.blobs.contents[file_id]
        assert self.call(self.spec.blobs.get, file_id) == expected
        assert (
            self.call(self.spec.blobs.get, file_id, start=start, end=start + length) == expected[start : start + length]
        )
        assert self.call(self.spec.blobs.stat, file_id).size == len(expected)

    @rule(name=NAMES)
    def delete_blob(self, name: str) -> None:
        data = BYTES[name]
        file_id = PlainBlobs().put(data)
        known = self.blobs.contents.pop(file_id, None)
        refused = type(self.call(self.told, self.spec.blobs.delete, file_id))
        assert refused is (BlobNotFoundError if known is None else type(None))

    @rule(names=st.lists(st.sampled_from(["one", "some", "many"]), min_size=1, max_size=2))
    def begin_upload(self, names: list[str]) -> None:
        parts = [BYTES[name] for name in names]
        session = self.call(self.spec.blobs.create_upload)
        for part in parts:
            self.call(self.spec.blobs.upload, session.upload_id, part)
        self.blobs.uploads.append((session.upload_id, parts))

    @precondition(lambda self: self.blobs.uploads)
    @rule(finish=st.booleans())
    def end_upload(self, finish: bool) -> None:
        upload_id, parts = self.blobs.uploads.pop()
        if finish:
            assert self.call(self.spec.blobs.finalize, upload_id).file_id == self.blobs.put(b"".join(parts))
        else:
            self.call(self.spec.blobs.abort, upload_id)
            assert type(self.call(self.told, self.spec.blobs.finalize, upload_id)) is BlobNotFoundError
