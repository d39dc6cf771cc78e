"""PostgreSQL through SQLAlchemy's asynchronous ORM on asyncpg, as its documentation shows it."""

from __future__ import annotations

import os
import time
from collections import deque
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Boolean, DateTime, ForeignKey, Index, LargeBinary, String, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.contestant import Contestant, distributions
from benchmarks.sample import person, shuffled_forever

__all__ = ["SqlAlchemy"]


class Person(msgspec.Struct):
    """The payload."""

    name: str
    age: int
    city: str
    note: str


class Base(DeclarativeBase):
    """All tables."""


class Item(Base):
    """The meta row."""

    __tablename__ = f"orm_{os.getpid()}"
    resource_id: Mapped[str] = mapped_column(String(collation="C"), primary_key=True)
    current_revision_id: Mapped[str] = mapped_column(String)
    version: Mapped[int] = mapped_column(default=1)
    created_time: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_time: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    is_deleted: Mapped[bool] = mapped_column(Boolean, default=False)
    age: Mapped[int]
    name: Mapped[str] = mapped_column(index=True)
    __table_args__ = (Index(None, "age", "resource_id"),)


class Revision(Base):
    """One revision with its payload."""

    __tablename__ = f"orm_{os.getpid()}_revision"
    resource_id: Mapped[str] = mapped_column(ForeignKey(Item.resource_id), primary_key=True)
    revision_id: Mapped[str] = mapped_column(String(collation="C"), primary_key=True)
    parent_revision_id: Mapped[str | None]
    created_time: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    payload: Mapped[bytes] = mapped_column(LargeBinary)


def new_id() -> str:
    """Random, and ordered by time."""
    return f"{time.time_ns():016x}{os.urandom(8).hex()}"


class SqlAlchemy(Contestant):
    """A session a call, `setting["pool_size"]` connections."""

    async def open(self) -> None:
        dsn: str = self.setting["environment"]["POSTGRES_DSN"]
        url = dsn.replace("postgresql://", "postgresql+asyncpg://", 1)
        self.engine: AsyncEngine = create_async_engine(url, pool_size=self.setting["pool_size"], max_overflow=0)
        self.session = async_sessionmaker(self.engine, expire_on_commit=False)
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(Person).decode
        self.rows: int = self.setting.get("rows", 10_000)
        self._held: list[tuple[str, str]] = []
        self._current: deque[tuple[int, tuple[str, str]]] = deque()
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)

    async def close(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all)
        await self.engine.dispose()

    def versions(self) -> dict[str, str]:
        return distributions("sqlalchemy", "asyncpg")

    def _pair(self, number: int) -> tuple[Item, Revision]:
        value = msgspec.convert(person(number, self.payload), Person)
        resource_id, revision_id = new_id(), new_id()
        item = Item(resource_id=resource_id, current_revision_id=revision_id, age=value.age, name=value.name)
        return item, Revision(resource_id=resource_id, revision_id=revision_id, payload=self.encode(value))

    async def fill(self) -> list[tuple[str, str]]:
        """Make sure that there are rows."""
        if not self._held:
            async with self.session() as session, session.begin():
                for number in range(self.rows):
                    item, revision = self._pair(number)
                    session.add(item)
                    session.add(revision)
                    self._held.append((item.resource_id, item.current_revision_id))
        return self._held

    async def create(self, caller: int) -> None:
        """Both rows in one transaction."""
        async with self.session() as session, session.begin():
            session.add_all(self._pair(self.count()))

    async def prepare_get(self) -> None:
        """Something to read."""
        self._ids = shuffled_forever([pair[0] for pair in await self.fill()])

    async def get(self, caller: int) -> None:
        """Both rows, joined, and the decoded payload."""
        statement = (
            select(Item, Revision)
            .join(
                Revision,
                (Revision.resource_id == Item.resource_id) & (Revision.revision_id == Item.current_revision_id),
            )
            .where(Item.resource_id == next(self._ids))
        )
        async with self.session() as session:
            row: Any = (await session.execute(statement)).one()
        self.decode(row[1].payload)

    async def prepare_update(self) -> None:
        """Something to change."""
        if not self._current:
            self._current = deque(enumerate(await self.fill()))

    async def update(self, caller: int) -> None:
        """A new revision and the pointer to it, if the current one is as expected."""
        number, (resource_id, known) = self._current.popleft()
        revision_id = new_id()
        value = msgspec.convert(person(number, self.payload), Person)
        statement = (
            update(Item)
            .where(Item.resource_id == resource_id, Item.current_revision_id == known)
            .values(current_revision_id=revision_id, version=Item.version + 1, updated_time=func.now())
        )
        async with self.session() as session, session.begin():
            done: Any = await session.execute(statement)
            if done.rowcount != 1:
                raise RuntimeError("conflict")
            session.add(
                Revision(
                    resource_id=resource_id,
                    revision_id=revision_id,
                    parent_revision_id=known,
                    payload=self.encode(value),
                )
            )
        self._current.append((number, (resource_id, revision_id)))
