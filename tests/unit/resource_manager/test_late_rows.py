"""A writer that stands still between payload and row, for longer than it takes until such a payload is garbage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from specstar import SpecStar
from specstar.backends.disk.payload_files import PayloadFiles
from specstar.errors import DuplicateResourceError
from tests.unit.wrong_clocks import WrongClocks


class Note(msgspec.Struct):
    text: str


class Stop:
    """Stops the program once it has written its next payloads: for an hour, in which another program collects garbage."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._clocks = WrongClocks(monkeypatch)
        self.armed = False
        self.collected = 0
        write = PayloadFiles.write

        def then_stop(files: PayloadFiles, items: Any) -> None:
            write(files, items)
            self._stop()

        monkeypatch.setattr(PayloadFiles, "write", then_stop)

    def _stop(self) -> None:
        if self.armed:
            self.armed = False
            self._clocks.go_on(3_700.0, 3_700.0)
            for path in self.payloads():
                path.unlink()
                self.collected += 1

    def payloads(self) -> list[Path]:
        return [path for path in self._root.rglob("_payloads/**/*") if path.is_file()]


@pytest.mark.parametrize("apart", [False, True], ids=["one backend", "two backends"])
@pytest.mark.parametrize("way", ["create", "create_many", "update"])
async def test_what_is_acknowledged_has_its_payload(
    tmp_path: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch, way: str, apart: bool
) -> None:
    def disk(name: str) -> dict[str, Any]:
        return {"type": "disk", "options": {"rootdir": str(tmp_path / name), "inline_payload_bytes": 0}}

    spec = SpecStar()
    spec.configure(backend={"meta": disk("one"), "resource": disk("two" if apart else "one")})
    notes = spec.add_model(Note)
    async with spec:
        first = await notes.create(Note("before"), resource_id="first")
        stop = Stop(tmp_path, monkeypatch)
        [before] = stop.payloads()
        aside = before.rename(tmp_path / "aside")
        stop.armed = True
        if way == "create":
            infos = [await notes.create(Note("late"))]
        elif way == "create_many":
            infos = await notes.create_many([Note("late"), Note("late")])
        else:
            infos = [await notes.update("first", Note("late"), expected_revision_id=first.revision_id)]
        assert stop.collected == len(infos)
        for info in infos:
            found = await notes.get(info.resource_id, revision_id=info.revision_id)
            assert found.data == Note("late")
        aside.rename(before)
        assert await notes.collect_garbage(older_than_seconds=-5) == 0


async def test_a_late_write_that_is_refused_leaves_no_payload(
    tmp_path: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path), "inline_payload_bytes": 0}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk})
    notes = spec.add_model(Note)
    async with spec:
        await notes.create(Note("before"), resource_id="taken")
        stop = Stop(tmp_path, monkeypatch)
        for path in stop.payloads():
            path.unlink()
        stop.armed = True
        with pytest.raises(DuplicateResourceError):
            await notes.create(Note("late"), resource_id="taken")
        assert stop.collected == 1
        assert stop.payloads() == []
