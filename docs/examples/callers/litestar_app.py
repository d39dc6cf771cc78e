"""Litestar: `lifespan=` takes the spec's context as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from litestar import Litestar, get, post
from litestar.exceptions import NotFoundException

from specstar import SpecStar
from specstar.errors import ResourceNotFoundError


class User(msgspec.Struct):
    name: str
    age: int = 0


spec = SpecStar()
users = spec.add_model(User, indexed_fields=["age"])
spec.configure(backend="backend.json")


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    async with spec:
        yield


@post("/users")
async def create(data: User) -> str:
    info = await users.create(data)
    return info.resource_id


@get("/users/{resource_id:str}")
async def read(resource_id: str) -> User:
    try:
        return (await users.get(resource_id)).data
    except ResourceNotFoundError as error:
        raise NotFoundException from error


app = Litestar([create, read], lifespan=[lifespan])
