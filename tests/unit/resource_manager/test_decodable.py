"""Types that msgspec knows nothing of are refused when they are declared."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from specstar import Job, SpecStar
from specstar.errors import InvalidInputError


class Foreign:
    """As a pydantic model is."""


class Deep(Struct):
    again: Deep | None = None
    parts: dict[str, list[Foreign]] | None = None


@dataclasses.dataclass
class Holder:
    deep: Deep


class Open(Struct):
    """Whatever is decoded may stand in these."""

    anything: Any = None
    some: object = None
    key: Hashable = 0
    raw: msgspec.Raw = msgspec.Raw(b"1")
    maybe: int | msgspec.UnsetType = msgspec.UNSET
    again: Open | None = None


@pytest.mark.parametrize(
    ("model", "path"), [(Foreign, "it is"), (Deep, "its field 'parts' is"), (Holder, "its field 'deep.parts' is")]
)
def test_a_foreign_type_is_refused_as_a_model_and_as_a_payload(model: Any, path: str) -> None:
    spec = SpecStar()
    with pytest.raises(InvalidInputError, match=rf"{path} of type .*\.Foreign, which msgspec does not decode"):
        spec.add_model(model)

    async def handler(job: Job[Any]) -> None: ...

    with pytest.raises(InvalidInputError, match=rf"{path} of type .*\.Foreign, which msgspec does not decode"):
        spec.add_job(model, handler)


def test_a_foreign_result_is_refused() -> None:
    spec = SpecStar()

    async def handler(job: Job[int]) -> Foreign:
        return Foreign()

    with pytest.raises(InvalidInputError, match="the result of job 'handler' cannot be decoded"):
        spec.add_job(int, handler)


async def test_what_may_be_anything_is_taken() -> None:
    spec = SpecStar()
    spec.configure(backend={})
    things = spec.add_model(Open)
    async with spec:
        made = await things.create(Open(some={"a": 1}, key="text", again=Open()))
        assert (await things.get(made.resource_id)).data.some == {"a": 1}
