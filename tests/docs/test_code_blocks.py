"""The Python code blocks of the README and the documentation run as they are written, page by page, in order."""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from specstar import Job, SpecStar
from tests.docs.code_blocks import PAGES, ROOT, blocks


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def servers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment variables that the pages on servers mention."""
    monkeypatch.setenv("POSTGRES_DSN", request.getfixturevalue("postgres_database"))
    monkeypatch.setenv("AMQP_URL", request.getfixturevalue("amqp_url"))
    s3 = request.getfixturevalue("s3")
    monkeypatch.setenv("S3_BUCKET", request.getfixturevalue("s3_bucket"))
    for name, value in s3.environment().items():
        if name != "S3_BUCKET":
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_access_key)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_the_page_runs(
    page: str, servers: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("specstar.core.spec", _fresh_spec())
    # What a page registers must not outlive its module.
    monkeypatch.setattr("specstar.backends.registry._providers", {})
    monkeypatch.setattr("specstar.spec", sys.modules["specstar.core"].spec, raising=False)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    with asyncio.Runner() as runner:
        for line, source in blocks(page):
            padded = "\n" * (line - 1) + source
            code = compile(padded, str(ROOT / page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            if inspect.CO_COROUTINE & code.co_flags:

                async def run(code: object = code) -> None:
                    await eval(code, module.__dict__)  # type: ignore[arg-type]

                runner.run(run())
            else:
                exec(code, module.__dict__)


def _fresh_spec() -> object:
    from specstar.core import SpecStar

    return SpecStar()


async def test_the_lifespan_of_a_web_application_lets_running_jobs_end() -> None:
    """The one of docs/jobs.md, as it is written there."""
    source = next(source for _, source in blocks("docs/jobs.md") if "def lifespan" in source)
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}, "mq": {"type": "simple"}})
    begun, shutdown, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @spec.job
    async def slow(job: Job[int]) -> None:
        begun.set()
        await shutdown.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        ended.set()

    page: dict[str, Any] = {"asyncio": asyncio, "spec": spec}
    exec(source, page)
    async with asyncio.timeout(30), page["lifespan"](None):
        await slow.enqueue(1)
        await begun.wait()
        shutdown.set()
    assert ended.is_set()
