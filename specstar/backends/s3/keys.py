"""Object keys: encoded from names that may be any text, at most 1024 bytes long, and without collisions."""

from __future__ import annotations

import base64
import hashlib
import re

from specstar.roles import PayloadKey

__all__ = ["PayloadKeys", "base_root", "escape", "meta_key", "probe_key", "slashed", "unescape"]

_UNSAFE = re.compile(rb"[^A-Za-z0-9_-]")
_ESCAPED = re.compile(rb"\.([0-9A-F]{2})")
_NAME_LIMIT = 120
_ID_LIMIT = 160


def escape(name: str, limit: int) -> str:
    """A name as one path part of letters, digits, `_`, `-` and `.XX`; never empty, `.` or `..`.

    A result beyond `limit` is replaced by `.h` and a SHA-256, which no escaped name can begin with.
    """
    # surrogatepass: two different names never share a key, even names that no store should have let in.
    raw = name.encode("utf-8", "surrogatepass")
    safe = _UNSAFE.sub(lambda found: b".%02X" % found.group()[0], raw).decode("ascii")
    if not safe:
        return ".e"
    return safe if len(safe) <= limit else f".h{hashlib.sha256(raw).hexdigest()}"


def unescape(part: str) -> str | None:
    """The name of an escaped part; None if the part is a hash."""
    if part == ".e":
        return ""
    if part.startswith(".h"):
        return None
    raw = _ESCAPED.sub(lambda found: bytes([int(found.group(1), 16)]), part.encode("ascii"))
    return raw.decode("utf-8", "surrogatepass")


def slashed(prefix: str) -> str:
    """A prefix with its last slash."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def meta_key(prefix: str, model: str) -> str:
    """The key of the database of one model."""
    return f"{slashed(prefix)}meta/{escape(model, _NAME_LIMIT)}.sqlite"


def base_root(prefix: str, model: str) -> str:
    """What the keys of the bases of one model begin with, and nothing else does."""
    # An escape has capital letters: no name of a model leads here.
    return f"{slashed(prefix)}meta/{escape(model, _NAME_LIMIT)}.base/"


def probe_key(prefix: str, token: str) -> str:
    """The key of an object that lives for the time of one probe."""
    return f"{slashed(prefix)}meta/_probe/{token}"


class PayloadKeys:
    """The keys of the payloads of one model: `{prefix}resource/{model}/{shard}/{resource id}/{payload id}`.

    The shard is two digits of a hash: ids are time-ordered, and S3 spreads load by the first bytes that differ.
    """

    def __init__(self, prefix: str, model: str) -> None:
        self.root: str = f"{slashed(prefix)}resource/{escape(model, _NAME_LIMIT)}/"

    def key(self, key: PayloadKey) -> str:
        """The object key of a payload."""
        resource = escape(key.resource_id, _ID_LIMIT)
        shard = hashlib.blake2b(resource.encode("ascii"), digest_size=1).hexdigest()
        return f"{self.root}{shard}/{resource}/{escape(key.payload_id, _ID_LIMIT)}"

    def metadata(self, key: PayloadKey) -> dict[str, str]:
        """What must be kept beside the payload to find its ids again: nothing, unless a part was hashed."""
        both = key.resource_id + key.payload_id
        if len(both) <= _ID_LIMIT // 3 and both.isascii():
            return {}
        kept = {"resource-id": key.resource_id, "payload-id": key.payload_id}
        if all(unescape(escape(value, _ID_LIMIT)) is not None for value in kept.values()):
            return {}
        return {name: _packed(value) for name, value in kept.items()}

    def parse(self, object_key: str, metadata: dict[str, str] | None = None) -> PayloadKey | None:
        """The ids of an object key; None if they were hashed and `metadata` is not given, or the key is a foreign one."""
        parts = object_key.removeprefix(self.root).split("/")
        if not object_key.startswith(self.root) or len(parts) != 3:
            return None
        if metadata and "resource-id" in metadata and "payload-id" in metadata:
            return PayloadKey(_unpacked(metadata["resource-id"]), _unpacked(metadata["payload-id"]))
        resource, payload = unescape(parts[1]), unescape(parts[2])
        return None if resource is None or payload is None else PayloadKey(resource, payload)

    def is_hashed(self, object_key: str) -> bool:
        """True for a key of ours whose ids are only in its metadata."""
        parts = object_key.removeprefix(self.root).split("/")
        return len(parts) == 3 and any(part.startswith(".h") for part in parts[1:])


def _packed(text: str) -> str:
    # Base64: S3 takes 2 KiB of metadata, and an id may have 1 KiB.
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")


def _unpacked(text: str) -> str:
    return base64.urlsafe_b64decode(text).decode("utf-8", "surrogatepass")
