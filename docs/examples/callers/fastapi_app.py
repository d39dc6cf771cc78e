"""FastAPI (Starlette is the same: `Starlette(lifespan=lifespan)`): the loop of the server is the home, and closes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI, HTTPException

from specstar import SpecStar
from specstar.errors import ResourceNotFoundError


class User(msgspec.Struct):
    name: str
    age: int = 0


spec = SpecStar()
users = spec.add_model(User, indexed_fields=["age"])
spec.configure(backend="backend.json")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with spec:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/users/{name}")
async def create(name: str, age: int) -> str:
    info = await users.create(User(name, age))
    return info.resource_id


@app.get("/users/{resource_id}")
async def read(resource_id: str) -> dict[str, object]:
    try:
        found = await users.get(resource_id)
    except ResourceNotFoundError as error:
        raise HTTPException(404) from error
    return {"name": found.data.name, "age": found.data.age}
