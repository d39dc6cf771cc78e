"""What the typing tests of both surfaces declare: models, payloads, handlers, and where they are kept."""

from __future__ import annotations

import dataclasses

import msgspec

from specstar import Job

__all__ = ["MEMORY", "Email", "Handler", "Note", "Receipt", "User", "plain_receipt_of", "receipt_of"]

MEMORY = {
    "meta": {"type": "memory"},
    "resource": {"type": "memory"},
    "blob": {"type": "memory"},
    "mq": {"type": "simple"},
}


class User(msgspec.Struct):
    name: str
    age: int = 0


@dataclasses.dataclass
class Note:
    text: str


class Email(msgspec.Struct):
    to: str


class Receipt(msgspec.Struct):
    length: int


async def receipt_of(job: Job[Email]) -> Receipt:
    return Receipt(len(job.payload.to))


def plain_receipt_of(job: Job[Email]) -> Receipt:
    return Receipt(len(job.payload.to))


class Handler:
    async def __call__(self, job: Job[User]) -> int:
        return job.payload.age

    def plain(self, job: Job[User]) -> str:
        return job.payload.name
