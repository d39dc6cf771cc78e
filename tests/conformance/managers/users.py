"""The model that the suites behind the managers share."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from specstar.resource_manager import ResourceManager

__all__ = ["FIELDS", "Address", "User", "Users"]


class Address(Struct, frozen=True):
    city: str = ""
    zip_code: str | None = None


class User(Struct):
    name: str
    age: int = 0
    email: str | None = None
    tags: list[str] = []
    address: Address = Address()
    joined: datetime | None = None
    score: float | None = None
    admin: bool = False


FIELDS = ["name", "age", "email", "tags", "address.city", "joined", "score", "admin"]
Users = ResourceManager[User]
