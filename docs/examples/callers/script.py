"""A plain script: no event loop, no `await`."""

from __future__ import annotations

import sys

import msgspec

from specstar import QB
from specstar.sync import spec


class User(msgspec.Struct):
    name: str
    age: int = 0


def main(backend: str) -> None:
    spec.configure(backend=backend)
    users = spec.add_model(User, indexed_fields=["age"])
    with spec:
        users.create_many([User("Ada", 36), User("Alan", 41), User("Grace", 17)])
        for found in users.iter(QB["age"] >= 18, sort=["-age"]):
            print(found.data.name, found.data.age)


if __name__ == "__main__":
    main(sys.argv[1])
