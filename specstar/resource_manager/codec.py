"""Payloads: a model's values to bytes and back, checked both ways."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from specstar.checks import checked_count
from specstar.config.encoding import Encoding
from specstar.errors import DecodeError, InvalidInputError, LimitExceededError
from specstar.resource_manager.decodable import decodable_type
from specstar.resource_manager.finite import refuse_nonfinite
from specstar.resource_manager.nesting import TOO_DEEP, Nesting
from specstar.resource_manager.patching import Shape, UnknownMemberError
from specstar.resource_manager.subclasses import Subclasses

__all__ = ["DEFAULT_MAX_PAYLOAD_BYTES", "Codec"]

T = TypeVar("T")
DEFAULT_MAX_PAYLOAD_BYTES = 64 << 20
_ENCODE = {Encoding.json: msgspec.json.encode, Encoding.msgpack: msgspec.msgpack.encode}
_ADVICE = "; encoding 'msgpack' keeps it"
# But for a `ValidationError`, which is one of them: those bytes are whole, and of another model.
_DAMAGE = (msgspec.DecodeError, UnicodeDecodeError)
_UNDECODABLE = (*_DAMAGE, RecursionError, ValueError, TypeError)
_MSGPACK_TYPES = (bytes, bytearray, memoryview, datetime)


class Patched(NamedTuple, Generic[T]):
    """What a patch has made of a stored value."""

    payload: bytes
    data: T
    encoding: Encoding


class Codec(Generic[T]):
    """Encodes values of one model in the configured format; decodes whichever format a revision was written in."""

    def __init__(
        self, model: type[T], encoding: Encoding, *, name: str, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
    ) -> None:
        self.encoding = encoding
        self.name = name
        self.max_payload_bytes: int = checked_count(max_payload_bytes, "max_payload_bytes", 1, sys.maxsize)
        self._model = model
        try:
            self._json: msgspec.json.Decoder[T] = msgspec.json.Decoder(model)
            self._msgpack: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(model)
            kind = decodable_type(model)
            self._shape = Shape(kind)
            self._subclasses = Subclasses(kind)
            self._nesting = Nesting(kind, what=f"the {name}", field="data")
        except (TypeError, NameError, ValueError) as error:
            raise InvalidInputError(f"{name} cannot be a model: {error}", field="model") from error
        self._decode = {Encoding.json: self._json.decode, Encoding.msgpack: self._msgpack.decode}

    def checked(self, value: T) -> tuple[bytes, T]:
        """The payload of a value, and the value as it will be read back: what does not fit the model is not stored.

        Raises `InvalidInputError` with the path of what does not fit the model, `LimitExceededError` if it is too large.
        """
        if type(value) is not self._subclasses.cls:
            self._check_members(value)
        return self._checked(value)

    def _check_members(self, value: Any) -> None:
        """Refuse members without a field: decoding would drop them without a word."""
        try:
            if isinstance(value, dict | list):
                self._shape.check(value)
            else:
                self._subclasses.check(value)
        except ValueError as error:
            raise InvalidInputError(f"the value is no valid {self.name}: {error}", field="data") from error
        except RecursionError as error:
            raise InvalidInputError(f"the value is no valid {self.name}: {TOO_DEEP}", field="data") from error

    def _checked(self, value: Any, encoding: Encoding | None = None) -> tuple[bytes, T]:
        encoding = encoding or self.encoding
        try:
            payload = _ENCODE[encoding](value)
            stored = self._decode[encoding](payload)
            if encoding is Encoding.json:
                refuse_nonfinite(payload, value, advice=_ADVICE)
            self._nesting.check(payload, encoding, value)
        except LimitExceededError:
            raise
        except (msgspec.DecodeError, msgspec.EncodeError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInputError(f"the value is no valid {self.name}: {error}", field="data") from error
        except RecursionError as error:
            raise InvalidInputError(f"the value is no valid {self.name}: {TOO_DEEP}", field="data") from error
        if len(payload) > self.max_payload_bytes:
            message = f"the {self.name} has {len(payload)} bytes encoded; at most {self.max_payload_bytes} are allowed"
            raise LimitExceededError(message, field="data", limit=self.max_payload_bytes, actual=len(payload))
        return payload, stored

    def decode(self, payload: bytes, encoding: Encoding, *, resource_id: str, revision_id: str) -> T:
        """The value of a stored payload. Raises `DecodeError` with the ids if it does not fit the model."""
        try:
            return self._decode[encoding](payload)
        except _UNDECODABLE as error:
            raise self._undecodable(error, resource_id, revision_id) from error

    def patched(
        self, payload: bytes, encoding: Encoding, patch: Mapping[str, Any], *, resource_id: str, revision_id: str
    ) -> Patched[T]:
        """A stored payload changed by a JSON merge patch (RFC 7396).

        Members that this model has no field for stay as they are: a newer program may have. Raises `InvalidInputError` if the
        patch names such, or if the result is no valid model; `DecodeError` if it was none before.
        """
        tree = self._tree(payload, encoding, resource_id=resource_id, revision_id=revision_id)
        try:
            changes = self._builtins(dict(patch) if isinstance(patch, Mapping) else patch)
            tree = self._shape.merged(tree, changes)
            value = msgspec.convert(self._shape.packed(tree, self._raw), self._model, str_keys=True)
            unknown = self._has_unknown(tree)
        except (msgspec.ValidationError, TypeError, ValueError, RecursionError) as error:
            self.decode(payload, encoding, resource_id=resource_id, revision_id=revision_id)
            reason = TOO_DEEP if isinstance(error, RecursionError) else error
            raise InvalidInputError(f"the patched value is no valid {self.name}: {reason}", field="patch") from error
        if unknown:
            if encoding is self.encoding is Encoding.msgpack:
                with suppress(InvalidInputError):
                    return Patched(*self._checked(tree), encoding)
            # JSON has all of them: it takes dates, bytes and keys in the form that a merge may have left them in.
            return Patched(*self._checked(tree, Encoding.json), Encoding.json)
        return Patched(*self.checked(value), self.encoding)

    def _has_unknown(self, tree: Any) -> bool:
        """True if the tree has members that this model has no field for."""
        try:
            self._shape.check(tree)
        except UnknownMemberError:
            return True
        return False

    def _tree(self, payload: bytes, encoding: Encoding, *, resource_id: str, revision_id: str) -> Any:
        decode = msgspec.json.decode if encoding is Encoding.json else msgspec.msgpack.decode
        try:
            return decode(payload)
        except _UNDECODABLE as error:
            self.decode(payload, encoding, resource_id=resource_id, revision_id=revision_id)
            raise self._undecodable(error, resource_id, revision_id) from error

    def _undecodable(self, error: Exception, resource_id: str, revision_id: str) -> DecodeError:
        which = f"revision {revision_id} of {self.name} {resource_id!r}"
        if isinstance(error, _DAMAGE) and not isinstance(error, msgspec.ValidationError):
            message = f"the payload of {which} is damaged ({error}): restore it from a backup, or write new data with update()"
        else:
            message = f"{which} does not decode: {error}; let the model take what was written, or write new data with update()"
        return DecodeError(message, resource_id=resource_id, revision_id=revision_id, model=self.name)

    def _raw(self, value: Any) -> msgspec.Raw:
        packed = _ENCODE[self.encoding](value)
        if self.encoding is Encoding.json:
            refuse_nonfinite(packed, value, advice=_ADVICE)
        return msgspec.Raw(packed)

    def _unpacked(self, value: Any) -> Any:
        if not isinstance(value, msgspec.Raw):
            raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
        return (msgspec.json if self.encoding is Encoding.json else msgspec.msgpack).decode(value)

    def _builtins(self, value: Any) -> Any:
        if self.encoding is Encoding.json:
            return msgspec.to_builtins(value, str_keys=True, enc_hook=self._unpacked)
        # What MessagePack can hold stays what it is.
        return msgspec.to_builtins(value, builtin_types=_MSGPACK_TYPES, enc_hook=self._unpacked)
