"""What a disk may hold after a power loss: a trace of file calls replayed up to some point, and what was not synced dropped.

The strictest reading of POSIX: the content of a file is kept up to its last fsync, the names in a folder up to the folder's
last fsync, and neither brings the other with it. Real file systems keep more, in any mixture, so other states are made too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults.tools.file_faults import Call, Event

__all__ = ["Disk", "crash_states", "lay_out"]


class _File:
    """Content as the program sees it, and as it is for certain on the disk."""

    def __init__(self) -> None:
        self.now = bytearray()
        self.kept = b""
        self.before_last_write = b""
        self.last_write: tuple[int, bytes] | None = None

    def write(self, offset: int, data: bytes) -> None:
        self.before_last_write = bytes(self.now)
        self.last_write = (offset, data)
        if len(self.now) < offset:
            self.now.extend(bytes(offset - len(self.now)))
        self.now[offset : offset + len(data)] = data

    def cut(self, length: int) -> None:
        if length <= len(self.now):
            del self.now[length:]
        else:
            self.now.extend(bytes(length - len(self.now)))

    def sync(self) -> None:
        self.kept = bytes(self.now)
        self.last_write = None

    def torn(self) -> bytes:
        """The last write came half way; what was before it is there."""
        if self.last_write is None:
            return bytes(self.now)
        offset, data = self.last_write
        whole = bytearray(self.before_last_write)
        if len(whole) < offset:
            whole.extend(bytes(offset - len(whole)))
        half = data[: len(data) // 2]
        whole[offset : offset + len(half)] = half
        return bytes(whole)

    def only_last(self) -> bytes:
        """Of what was not synced, the last write alone came through."""
        if self.last_write is None:
            return self.kept
        offset, data = self.last_write
        whole = bytearray(self.kept)
        if len(whole) < offset:
            whole.extend(bytes(offset - len(whole)))
        whole[offset : offset + len(data)] = data
        return bytes(whole)


class _Folder:
    def __init__(self) -> None:
        self.now: dict[str, _Folder | _File] = {}
        self.kept: dict[str, _Folder | _File] = {}


Tree = dict[str, bytes | None]


class Disk:
    """One folder, `root`, whose own name and content at the start are safe."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._top = _Folder()

    def apply(self, event: Event) -> None:
        """Let one call have its effect."""
        call = event.call
        if call is Call.MARK or event.path == self.root:
            if call is Call.SYNC:
                self._sync(self._top)
            return
        folder, name = self._place(event.path)
        entry = folder.now.get(name)
        if call is Call.MKDIR:
            folder.now[name] = _Folder()
        elif call is Call.OPEN:
            if entry is None:
                folder.now[name] = _File()
            elif event.offset and isinstance(entry, _File):
                entry.cut(0)
        elif call is Call.WRITE:
            _file(entry).write(event.offset, event.data)
        elif call is Call.TRUNCATE:
            _file(entry).cut(event.offset)
        elif call is Call.SYNC:
            self._sync(entry)
        elif call in {Call.RENAME, Call.LINK}:
            other, new = self._place(event.other)
            assert entry is not None, event.path
            other.now[new] = entry
            if call is Call.RENAME:
                del folder.now[name]
        elif call in {Call.UNLINK, Call.RMDIR}:
            del folder.now[name]
        else:
            raise AssertionError(f"unknown call {call}")

    @staticmethod
    def _sync(entry: _Folder | _File | None) -> None:
        if isinstance(entry, _Folder):
            entry.kept = dict(entry.now)
        elif entry is not None:
            entry.sync()

    def _place(self, path: str) -> tuple[_Folder, str]:
        # Linux says so of a file whose name is gone while it is open.
        parts = path.removesuffix(" (deleted)").removeprefix(self.root).strip("/").split("/")
        folder = self._top
        for part in parts[:-1]:
            inner = folder.now[part]
            assert isinstance(inner, _Folder), path
            folder = inner
        return folder, parts[-1]

    def states(self) -> Iterator[tuple[str, Tree]]:
        """What may be there if the power fails now, each with its name."""
        for names in ("kept", "now"):
            for content in ("kept", "now", "torn", "only the last write"):
                yield f"names {names}, content {content}", self._tree(self._top, names, content)

    def _tree(self, folder: _Folder, names: str, content: str, above: str = "") -> Tree:
        tree: Tree = {}
        for name, entry in (folder.kept if names == "kept" else folder.now).items():
            path = f"{above}{name}"
            if isinstance(entry, _Folder):
                tree[path] = None
                tree.update(self._tree(entry, names, content, f"{path}/"))
            elif content == "kept":
                tree[path] = entry.kept
            elif content == "now":
                tree[path] = bytes(entry.now)
            else:
                tree[path] = entry.torn() if content == "torn" else entry.only_last()
        return tree


def _file(entry: _Folder | _File | None) -> _File:
    assert isinstance(entry, _File), entry
    return entry


def crash_states(events: Sequence[Event], root: str, *, start: int = 0) -> list[tuple[int, str, Tree]]:
    """The different states that a power loss after each event from `start` on may leave: where, which kind, the files.

    Of equal ones the latest: most was acknowledged by then.
    """
    disk = Disk(root)
    found: dict[bytes, tuple[int, str, Tree]] = {}
    for place, event in enumerate(events):
        disk.apply(event)
        if place >= start:
            for name, tree in disk.states():
                found[_digest(tree)] = place, name, tree
    return sorted(found.values(), key=lambda state: state[:2])


def _digest(tree: Tree) -> bytes:
    digest = hashlib.blake2b()
    for path, content in sorted(tree.items()):
        if "-shm" in path:
            continue  # rebuilt by whoever opens the database first
        digest.update(f"{len(path)} {path} {-1 if content is None else len(content)} ".encode())
        digest.update(content or b"")
    return digest.digest()


def lay_out(tree: Tree, folder: Path) -> None:
    """Write a state into a new folder."""
    folder.mkdir()
    for path, content in sorted(tree.items()):
        if content is None:
            (folder / path).mkdir()
        elif not path.endswith("-shm"):
            (folder / path).write_bytes(content)
