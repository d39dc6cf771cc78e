"""Tests of a program that has its spec in a module. With all in memory, each test that closes it leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

os.environ["FILES_BACKEND"] = str(Path(__file__).with_name("memory.json"))  # before the program is imported

from files_app import app, spec


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with spec, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


async def test_a_part_of_a_file_is_read(client: httpx.AsyncClient) -> None:
    created = (await client.post("/files/hello.txt", content=b"hello world")).json()
    part = await client.get(f"/files/{created['id']}/content", headers={"Range": "bytes=6-"})
    assert (part.status_code, part.content) == (206, b"world")


async def test_who_is_late_changes_nothing(client: httpx.AsyncClient) -> None:
    created = (await client.post("/files/hello.txt", content=b"hello")).json()
    url = f"/files/{created['id']}"
    seen = {"If-Match": (await client.get(url)).headers["ETag"]}
    assert (await client.patch(url, json={"tags": ["mine"]}, headers=seen)).status_code == 204
    assert (await client.patch(url, json={"tags": ["theirs"]}, headers=seen)).status_code == 412
    assert (await client.get(url)).json()["tags"] == ["mine"]
