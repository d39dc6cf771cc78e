"""Object keys from any names."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from specstar.backends.s3.keys import PayloadKeys, escape, meta_key, unescape
from specstar.roles import PayloadKey
from tests.conformance.samples import HOSTILE_IDS, HOSTILE_MODELS

names = st.text(max_size=60) | st.sampled_from(HOSTILE_IDS) | st.text(alphabet="./\\\0\n%é👩", max_size=400)


@given(names)
def test_an_escaped_name_is_one_safe_part_and_comes_back(name: str) -> None:
    part = escape(name, 160)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,160}", part)
    assert part not in (".", "..")
    assert unescape(part) in (name, None)
    if len(name.encode()) <= 50:
        assert unescape(part) == name


@given(st.lists(names, unique=True, max_size=30))
def test_different_names_never_share_a_part(found: list[str]) -> None:
    assert len({escape(name, 160) for name in found}) == len(found)


def test_hostile_names_never_share_a_key() -> None:
    assert len({meta_key("", name) for name in HOSTILE_MODELS}) == len(HOSTILE_MODELS)
    keys = PayloadKeys("", "M")
    assert len({keys.key(PayloadKey(name, "p")) for name in HOSTILE_IDS}) == len(HOSTILE_IDS)


@given(resource=names, payload=names, model=names, prefix=st.text(alphabet="abc/_-", max_size=400))
def test_payload_keys_fit_s3_and_come_back(resource: str, payload: str, model: str, prefix: str) -> None:
    keys = PayloadKeys(prefix, model)
    key = PayloadKey(resource, payload)
    made = keys.key(key)
    assert len(made.encode()) <= 1024
    assert keys.parse(made, keys.metadata(key)) == key
    assert keys.is_hashed(made) is (keys.parse(made) is None)


def test_parts_of_a_payload_key_do_not_run_together() -> None:
    keys = PayloadKeys("", "M")
    assert keys.key(PayloadKey("a", "b/c")) != keys.key(PayloadKey("a/b", "c"))
    assert PayloadKeys("", "M/x").root != PayloadKeys("", "M").root + "x/"


def test_keys_of_others_are_no_payloads() -> None:
    keys = PayloadKeys("p", "M")
    for foreign in ("p/resource/M/x", "p/resource/M/aa/b/c/d", "other/resource/M/aa/b/c", "p/meta/M.sqlite"):
        assert keys.parse(foreign) is None
