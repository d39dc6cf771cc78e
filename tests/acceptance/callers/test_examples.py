"""The examples of docs/callers.md do what they say."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.acceptance.callers.conftest import ROOT, Backend, Programs

EXAMPLES = ROOT / "docs" / "examples" / "callers"


@pytest.fixture
def folder(backend: Backend, tmp_path: Path) -> Path:
    """A copy of the examples beside their configuration."""
    folder = tmp_path / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "backend.json").write_text(json.dumps(backend))
    return folder


@pytest.mark.parametrize("library", ["fastapi", "litestar"])
def test_a_web_framework_opens_and_closes_it_with_its_lifespan(
    programs: Programs, backend: Backend, folder: Path, library: str
) -> None:
    done = programs.run(
        """
import importlib
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
module = importlib.import_module(sys.argv[2] + "_app")
if sys.argv[2] == "fastapi":
    from starlette.testclient import TestClient
else:
    from litestar.testing import TestClient

for _ in range(2):  # a new loop each time
    with TestClient(module.app) as client:
        if sys.argv[2] == "fastapi":
            answer = client.post("/users/Ada", params={"age": 36})
            created = answer.json()
        else:
            answer = client.post("/users", json={"name": "Ada", "age": 36})
            created = answer.text
        assert answer.is_success, answer.text
        say(client.get(f"/users/{created}").json(), client.get("/users/none").status_code)
    assert not module.spec._gate.connections.opened()
""",
        backend,
        str(folder),
        library,
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert done.out == "{'name': 'Ada', 'age': 36} 404\n" * 2, done.err
    assert done.code == 0


def test_a_service_for_files_streams_and_is_told_of_races(programs: Programs, backend: Backend, folder: Path) -> None:
    done = programs.run(
        """
import importlib
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
module = importlib.import_module("files_app")
from starlette.testclient import TestClient

content = bytes(range(256)) * 20_000
with TestClient(module.app) as client:
    answer = client.post("/files/bytes", content=content, headers={"content-type": "image/x-test"})
    url = "/files/" + answer.json()["id"]
    found = client.get(url + "/content")
    assert (found.status_code, found.content, found.headers["content-type"]) == (200, content, "image/x-test")
    for wanted, start, end in (("0-0", 0, 1), ("3000000-", 3_000_000, None), ("-7", -7, None), ("10-99999999", 10, None)):
        part = client.get(url + "/content", headers={"range": f"bytes={wanted}"})
        assert (part.status_code, part.content) == (206, content[start:end]), wanted
    say(part.headers["content-range"])
    say(client.get(url + "/content", headers={"range": "bytes=5120000-"}).status_code)

    tag = {"if-match": client.get(url).headers["etag"]}
    say([client.patch(url, json={"name": name}, headers=tag).status_code for name in ("first", "second")])
    say(client.patch(url, json={"nome": "third"}).json(), client.patch(url, json=[1]).status_code)
    say(client.get(url).json(), client.get("/files/none").status_code, client.get("/files/a%00b").status_code)

    module.MOST_BYTES = 1000
    say(client.post("/files/large", content=iter([b"x" * 600] * 2)).status_code)
    assert client.get("/health").status_code == 200
""",
        backend,
        str(folder),
        flags=("-W", "ignore::DeprecationWarning"),
    )
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "bytes 10-5119999/5120000",
        "416",
        "[204, 412]",
        "{'error': \"the patched value is no valid File: there is no field 'nome' (did you mean 'name'?) - at `$`\"} 422",
        "{'name': 'first', 'tags': []} 404 422",
        "413",
    ]


def test_a_django_view_uses_the_blocking_facade(programs: Programs, backend: Backend, folder: Path) -> None:
    done = programs.run(
        """
import json
from concurrent.futures import ThreadPoolExecutor
os.chdir(sys.argv[1])
sys.path.insert(0, sys.argv[1])
import django
from django.conf import settings
settings.configure(DEBUG=True, ROOT_URLCONF="django_views", SECRET_KEY="test", ALLOWED_HOSTS=["*"])
django.setup()
import django_views
from django.http import Http404
from django.test import RequestFactory

factory = RequestFactory()

def both(number):
    # Each thread its own: the body of a request is read by one.
    request = factory.post("/users", json.dumps({"name": "Ada", "age": 36}), content_type="application/json")
    created = json.loads(django_views.create(request).content)["id"]
    return json.loads(django_views.read(factory.get(f"/users/{created}"), created).content)

with django_views.spec:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(both, range(40)))
    say(answers == [{"name": "Ada", "age": 36}] * 40)
    try:
        django_views.read(factory.get("/users/none"), "none")
    except Http404:
        say("404")
""",
        backend,
        str(folder),
    )
    assert (done.out, done.err) == ("True\n404\n", "")


def test_the_trio_service_stores_lines_by_jobs(programs: Programs, backend: Backend, folder: Path) -> None:
    command = [sys.executable, "trio_service.py", "backend.json"]
    service = programs.start_command(command, backend, folder)
    with socket.create_connection(("127.0.0.1", int(service.line())), timeout=20) as client:
        answers = client.makefile("r")
        for _ in range(3):
            client.sendall(b"a line\n")
            assert re.fullmatch(r"[0-9a-f-]{36}\n", answers.readline())
        answers.close()
    service.signal(signal.SIGTERM)
    done = service.end()
    assert (done.err, done.code) == ("", 0)
    assert done.seconds < 10


def test_the_script_prints_the_adults(programs: Programs, backend: Backend, folder: Path) -> None:
    done = programs.start_command([sys.executable, "script.py", "backend.json"], backend, folder).end()
    assert (done.out, done.err) == ("Alan 41\nAda 36\n", "")


def test_the_fixtures_serve_a_users_own_tests(programs: Programs, backend: Backend, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "-o",
        "anyio_mode=auto",
        ".",
    ]
    done = programs.start_command(command, backend, folder).end()
    assert done.code == 0, done.out
    assert re.search(r"\d+ passed", done.out)
