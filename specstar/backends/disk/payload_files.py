"""Large payloads of one model: a file each, named by a hash of its key, with the key and a checksum inside.

`<root>/_payloads/<model>/ab/cd/<sha256 of the key>`: eight bytes of magic, the header's length, a header in msgpack (ids,
size, CRC-32), then the payload. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from specstar.backends.disk.durable import FolderTree, TempFolder, disk_errors, read_fully, write_fully
from specstar.config.encoding import UNDECODABLE
from specstar.errors import DecodeError
from specstar.roles import PayloadKey, StoredPayload

__all__ = ["PayloadFiles"]

_MAGIC = b"SPCPAY1\n"
_LENGTH = struct.Struct(">I")
_FIRST_READ = 128 << 10
_MAX_HEADER = 64 << 10


class _Header(msgspec.Struct, array_like=True):
    resource_id: str
    payload_id: str
    size: int
    crc: int


_decode_header = msgspec.msgpack.Decoder(_Header).decode


class PayloadFiles:
    """The payload files of one model under one root."""

    def __init__(self, root: Path, suffix: str, temps: TempFolder) -> None:
        self._folder = root / "_payloads" / suffix
        self._temps = temps
        self._tree = FolderTree(root / "_payloads")

    def path_of(self, key: PayloadKey) -> Path:
        """Where a payload lies. No text of a user gets into a path."""
        digest = hashlib.sha256(f"{len(key.resource_id)}:{key.resource_id}{key.payload_id}".encode()).hexdigest()
        return self._folder / digest[:2] / digest[2:4] / digest

    def write(self, items: Sequence[tuple[PayloadKey, bytes]]) -> None:
        """Store payloads; returns once all are durable. Raises `BackendError`."""
        with disk_errors(self._folder):
            paths = [self.path_of(key) for key, _ in items]
            for path, (key, payload) in zip(paths, items, strict=True):
                self._write_one(path, key, payload)
            self._tree.settle(path.parent for path in paths)

    def _write_one(self, path: Path, key: PayloadKey, payload: bytes) -> None:
        header = msgspec.msgpack.encode(_Header(key.resource_id, key.payload_id, len(payload), zlib.crc32(payload)))
        descriptor, temporary = self._temps.create()
        try:
            try:
                write_fully(descriptor, b"".join((_MAGIC, _LENGTH.pack(len(header)), header)))
                write_fully(descriptor, payload)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._tree.make(path.parent)
            try:
                temporary.replace(path)
            except FileNotFoundError:
                self._tree.forget(path.parent)
                self._tree.make(path.parent)
                temporary.replace(path)
        finally:
            self._temps.drop(temporary)

    def read(self, keys: Sequence[PayloadKey]) -> list[bytes | DecodeError | None]:
        """One entry a key: the payload, None if there is none, an error if it is damaged. Raises `BackendError`."""
        with disk_errors(self._folder):
            return [self._read_one(key) for key in keys]

    def _read_one(self, key: PayloadKey) -> bytes | DecodeError | None:
        path = self.path_of(key)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            size = os.fstat(descriptor).st_size
            data = read_fully(descriptor, min(size, _FIRST_READ), 0)
            if size > len(data):
                data += read_fully(descriptor, size - len(data), len(data))
        finally:
            os.close(descriptor)
        parsed = _parse(data)
        if parsed is not None:
            header, start = parsed
            payload = data[start:]
            named = (header.resource_id, header.payload_id) == key
            if named and len(payload) == header.size and zlib.crc32(payload) == header.crc:
                return payload
        message = f"the payload file {path} is damaged; restore it from a backup"
        return DecodeError(message, resource_id=key.resource_id)

    def delete(self, keys: Sequence[PayloadKey]) -> None:
        """Erase payloads; missing ones are ignored. Raises `BackendError`."""
        with disk_errors(self._folder):
            for key in keys:
                self.path_of(key).unlink(missing_ok=True)

    def sweep(self, older_than_seconds: float) -> int:
        """Remove temporary files that were not written to for so long; returns how many. Raises `BackendError`."""
        with disk_errors(self._temps.path):
            return self._temps.sweep(older_than_seconds)

    def outer_folders(self) -> list[Path]:
        """The first level of folders, for `scan`."""
        with disk_errors(self._folder):
            try:
                return sorted(path for path in self._folder.iterdir() if path.is_dir())
            except FileNotFoundError:
                return []

    def scan(self, folder: Path) -> list[StoredPayload]:
        """All payloads in one of the outer folders. Damaged files are left out: they may be somebody's only copy."""
        with disk_errors(folder):
            return list(self._scan(folder))

    def _scan(self, folder: Path) -> Iterator[StoredPayload]:
        for directory, _, names in os.walk(folder):
            for name in names:
                path = Path(directory) / name
                try:
                    with path.open("rb", buffering=0) as file:
                        found = os.fstat(file.fileno())
                        parsed = _parse(file.read(_MAX_HEADER) or b"")
                except FileNotFoundError:
                    continue  # deleted meanwhile
                if parsed is None:
                    continue
                header = parsed[0]
                time = datetime.fromtimestamp(found.st_mtime, UTC)
                yield StoredPayload(PayloadKey(header.resource_id, header.payload_id), header.size, time)


def _parse(data: bytes) -> tuple[_Header, int] | None:
    """Header and start of the payload; None for what is no payload file."""
    fixed = len(_MAGIC) + _LENGTH.size
    if len(data) < fixed or not data.startswith(_MAGIC):
        return None
    (length,) = _LENGTH.unpack_from(data, len(_MAGIC))
    if length > _MAX_HEADER or len(data) < fixed + length:
        return None
    try:
        return _decode_header(data[fixed : fixed + length]), fixed + length
    except UNDECODABLE:
        return None
