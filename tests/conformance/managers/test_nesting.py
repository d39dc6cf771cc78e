"""Values that are nested deeply: as deep as is allowed they come back to every caller, deeper they are refused by one error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from msgspec import Struct

from specstar import SpecStar
from specstar.errors import InvalidInputError, LimitExceededError
from specstar.resource_manager.nesting import MAX_LEVELS

pytestmark = pytest.mark.anyio

T = TypeVar("T")


class Box(Struct):
    """With its content, the levels of a `Box` are one more than those of the content."""

    content: Any = None
    inner: Box | None = None


def lists(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def objects(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def boxes(levels: int) -> Box:
    value = Box()
    for _ in range(levels):
        value = Box(inner=value)
    return value


NESTED: dict[str, Callable[[int], Box]] = {
    "lists": lambda levels: Box(lists(levels - 1)),
    "objects": lambda levels: Box(objects(levels - 1)),
    "boxes": lambda levels: boxes(levels - 1),
}


async def deep_down(frames: int, call: Callable[[], Awaitable[T]]) -> T:
    """Awaited by a caller whose stack is that deep."""
    return await deep_down(frames - 1, call) if frames else await call()


@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED)
async def test_what_is_allowed_comes_back_to_deep_callers(star: SpecStar, nested: Callable[[int], Box]) -> None:
    boxes = star.add_model(Box)
    value = nested(MAX_LEVELS)
    made = await boxes.create(value)

    async def all_of_it() -> None:
        assert (await boxes.get(made.resource_id)).data == value
        assert [found.data for found in await boxes.search()] == [value]
        await boxes.patch(made.resource_id, {})
        await boxes.update(made.resource_id, value)
        assert (await boxes.get(made.resource_id)).data == value

    await deep_down(200, all_of_it)


@pytest.mark.parametrize("nested", NESTED.values(), ids=NESTED)
async def test_what_is_deeper_is_refused_and_not_stored(star: SpecStar, nested: Callable[[int], Box]) -> None:
    boxes = star.add_model(Box)
    made = await boxes.create(Box(1), status="draft")
    too_deep = nested(MAX_LEVELS + 1)
    # Up to 1,000 Python's own limit is not crossed by every step.
    for value in (too_deep, *(nested(levels) for levels in range(940, 1000, 4)), nested(3000)):
        for change in (
            lambda value=value: boxes.create(value),
            lambda value=value: boxes.create_many([Box(2), value]),
            lambda value=value: boxes.update(made.resource_id, value),
            lambda value=value: boxes.modify(made.resource_id, value),
            lambda value=value: boxes.patch(made.resource_id, {"content": value.content, "inner": value.inner}),
        ):
            with pytest.raises(InvalidInputError, match="nested too deeply"):
                await change()
    with pytest.raises(LimitExceededError) as caught:
        await boxes.create(too_deep)
    assert (caught.value.limit, caught.value.actual) == (MAX_LEVELS, MAX_LEVELS + 1)
    assert await boxes.count() == 1
    assert (await boxes.get(made.resource_id)).data == Box(1)


async def test_wide_values_and_brackets_in_text_are_not_deep(star: SpecStar) -> None:
    boxes = star.add_model(Box)
    value = Box([{"text": "[{" * MAX_LEVELS, "é": [1]} for _ in range(MAX_LEVELS)])
    made = await boxes.create(value)
    assert (await boxes.get(made.resource_id)).data == value
