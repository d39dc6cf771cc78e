"""Stored payloads that give no value: the error says whether the bytes or the model are to blame, and what to do."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Struct

from specstar.config.encoding import Encoding
from specstar.errors import DecodeError
from specstar.resource_manager.codec import Codec


class User(Struct):
    name: str
    age: int = 0


def refused(codec: Codec[User], payload: bytes) -> str:
    def patched() -> object:
        return codec.patched(payload, codec.encoding, {"age": 1}, resource_id="r", revision_id="1")

    messages = set[str]()
    for read in (lambda: codec.decode(payload, codec.encoding, resource_id="r", revision_id="1"), patched):
        with pytest.raises(DecodeError) as caught:
            read()
        assert (caught.value.resource_id, caught.value.revision_id, caught.value.model) == ("r", "1", "User")
        messages.add(str(caught.value))
    [message] = messages
    return message


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("kept", [0, 1, -1])
def test_a_payload_that_was_cut_is_damaged(encoding: Encoding, kept: int) -> None:
    codec = Codec(User, encoding, name="User")
    payload, _ = codec.checked(User("Ada", 36))
    assert "restore it from a backup, or write new data with update()" in refused(codec, payload[:kept])
    assert "payload of revision 1 of User 'r' is damaged (" in refused(codec, payload[:kept])


@pytest.mark.parametrize("encoding", Encoding)
def test_text_that_is_no_text_is_damage(encoding: Encoding) -> None:
    codec = Codec(User, encoding, name="User")
    payload, _ = codec.checked(User("Ada", 36))
    assert "is damaged" in refused(codec, payload.replace(b"Ada", b"A\xffa"))


@pytest.mark.parametrize("encoding", Encoding)
def test_a_whole_payload_of_another_model_is_not_damaged(encoding: Encoding) -> None:
    codec = Codec(User, encoding, name="User")
    encode = msgspec.json.encode if encoding is Encoding.json else msgspec.msgpack.encode
    message = refused(codec, encode({"name": 5}))
    assert "damaged" not in message
    assert "let the model take what was written, or write new data with update()" in message
