"""Meta and payloads on different connections: a payload that is lost or damaged hides no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from specstar import SpecStar
from specstar.errors import DecodeError


class Note(msgspec.Struct):
    text: str


@pytest.mark.parametrize("how", ["lost", "damaged"])
async def test_it_hides_no_other(tmp_path: Path, anyio_backend: Any, how: str) -> None:
    meta = {"type": "disk", "options": {"rootdir": str(tmp_path / "meta")}}
    resource = {"type": "disk", "options": {"rootdir": str(tmp_path / "payloads"), "inline_payload_bytes": 0}}
    spec = SpecStar()
    spec.configure(backend={"meta": meta, "resource": resource})
    notes = spec.add_model(Note, indexed_fields=["text"])
    async with spec:
        infos = await notes.create_many([Note(text) for text in ("first", "second", "third")])
        ids = [info.resource_id for info in infos]
        path = next(
            path
            for path in (tmp_path / "payloads").rglob("*")
            if path.suffix != ".sqlite3" and path.is_file() and b"second" in path.read_bytes()
        )
        if how == "lost":
            path.unlink()
        else:
            path.write_bytes(b"noise")
        with pytest.raises(DecodeError):
            await notes.get(ids[1])
        assert [one is not None and one.error is None for one in await notes.get_many(ids)] == [True, False, True]
        found = await notes.search(sort=["resource_id"])
        assert [(one.resource_id, one.error is None) for one in found] == list(
            zip(ids, [True, False, True], strict=True)
        )
        with pytest.raises(DecodeError) as caught:
            _ = found[1].data
        assert caught.value.resource_id == ids[1]
        assert [one.resource_id async for one in notes.iter(sort=["resource_id"])] == ids
        await notes.permanently_delete(ids[1])
        assert [one.data.text for one in await notes.search(sort=["resource_id"])] == ["first", "third"]
