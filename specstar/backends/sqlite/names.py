"""Table names for any model name: a readable part, then a hash that keeps different names apart."""

from __future__ import annotations

import hashlib
import re

__all__ = ["table_suffix"]

_UNSAFE = re.compile(r"[^a-z0-9]+")
_SLUG_LENGTH = 40
_HASH_LENGTH = 16


def table_suffix(model_name: str) -> str:
    """The part of the table names that stands for a model. Names that differ in any code point get different ones."""
    slug = _UNSAFE.sub("_", model_name.lower()).strip("_")[:_SLUG_LENGTH]
    digest = hashlib.sha256(model_name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{slug}_{digest}" if slug else digest
