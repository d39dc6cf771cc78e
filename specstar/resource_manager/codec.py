"""Payloads: a model's values to bytes and back, checked both ways."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from specstar.config.encoding import Encoding
from specstar.errors import DecodeError, InvalidInputError, LimitExceededError

__all__ = ["DEFAULT_MAX_PAYLOAD_BYTES", "Codec"]

T = TypeVar("T")
DEFAULT_MAX_PAYLOAD_BYTES = 64 << 20


class Codec(Generic[T]):
    """Encodes values of one model in the configured format; decodes whichever format a revision was written in."""

    def __init__(
        self, model: type[T], encoding: Encoding, *, name: str, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
    ) -> None:
        self.encoding = encoding
        self.name = name
        self.max_payload_bytes = max_payload_bytes
        self._model = model
        try:
            self._json: msgspec.json.Decoder[T] = msgspec.json.Decoder(model)
            self._msgpack: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(model)
        except (TypeError, NameError) as error:
            raise InvalidInputError(f"{name} cannot be a model: {error}", field="model") from error
        self._decode = {Encoding.json: self._json.decode, Encoding.msgpack: self._msgpack.decode}
        self._encode = msgspec.json.encode if encoding is Encoding.json else msgspec.msgpack.encode

    def encode(self, value: T) -> bytes:
        """The payload of a value. It is decoded once, so that nothing is stored that cannot be read back.

        Raises `InvalidInputError` with the path of what does not fit the model, `LimitExceededError` if it is too large.
        """
        try:
            payload = self._encode(value)
            self._decode[self.encoding](payload)
        except (msgspec.ValidationError, msgspec.EncodeError, TypeError, ValueError, OverflowError) as error:
            raise InvalidInputError(f"the value is no valid {self.name}: {error}", field="data") from error
        except RecursionError as error:
            raise InvalidInputError(f"the value is nested too deeply for {self.name}", field="data") from error
        if len(payload) > self.max_payload_bytes:
            message = f"the {self.name} has {len(payload)} bytes encoded; at most {self.max_payload_bytes} are allowed"
            raise LimitExceededError(message, field="data", limit=self.max_payload_bytes, actual=len(payload))
        return payload

    def decode(self, payload: bytes, encoding: Encoding, *, resource_id: str, revision_id: str) -> T:
        """The value of a stored payload. Raises `DecodeError` with the ids if it does not fit the model."""
        try:
            return self._decode[encoding](payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
            message = f"revision {revision_id} of {self.name} {resource_id!r} does not decode: {error}"
            raise DecodeError(message, resource_id=resource_id, revision_id=revision_id, model=self.name) from error

    def merge(self, value: T, patch: Any) -> T:
        """The value changed by a JSON merge patch (RFC 7396). Raises `InvalidInputError` if the result is no valid model."""
        try:
            changes = msgspec.to_builtins(patch, str_keys=True)
            merged = _merge(msgspec.to_builtins(value, str_keys=True), changes)
            return msgspec.convert(merged, self._model, str_keys=True)
        except (msgspec.ValidationError, TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(f"the patched value is no valid {self.name}: {error}", field="patch") from error


def _merge(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged
