"""A backend type of a third party: its package is built, installed, and found by its entry point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = Path(__file__).parent / "plugin_package"

PROGRAM = """
import sys

import anyio
from msgspec import Struct

from specstar import SpecStar
from specstar.errors import BackendError

class Note(Struct):
    text: str

async def main():
    spec = SpecStar()
    spec.configure(backend={
        "defaults": {"encoding": "msgpack"},
        "connections": {"shelf": {"type": "shelf", "options": {"shelf_label": "$LABEL", "places": "${PLACES:-2}"}}},
        "resource": {"use": "shelf"},
    })
    async with spec:
        notes = spec.add_model(Note)
        info = await notes.create(Note(text="first"))
        assert (await notes.get(info.resource_id)).data == Note(text="first")
        await notes.update(info.resource_id, Note(text="second"))
        try:
            await notes.create(Note(text="third"))
        except BackendError as error:
            assert "the shelf is full" in str(error), error
        else:
            raise AssertionError("three payloads on a shelf of two places")
        [report] = [report for report in await spec.check() if report.role == "resource"]
        assert (report.ok, report.server_version, report.detail) == (True, "shelf 1.0", "2 payloads"), report

anyio.run(main, backend=sys.argv[1])
print("done")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the built package was installed into."""
    folder = tmp_path_factory.mktemp("plugin")
    source = folder / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = folder / "site"
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run(installed: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(installed), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": path, **environ},
    )


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_installed_backend_type_keeps_resources(installed: Path, loop: str) -> None:
    done = run(installed, "-c", PROGRAM, loop, LABEL="mine")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_an_installed_backend_type_is_in_the_schema(installed: Path) -> None:
    done = run(installed, "-m", "specstar.cli", "schema")
    assert done.returncode == 0, done.stderr
    validator = jsonschema.Draft202012Validator(json.loads(done.stdout))
    assert validator.is_valid({"resource": {"type": "shelf", "options": {"label": "a", "places": 5}}})
    assert not validator.is_valid({"resource": {"type": "shelf", "options": {"label": "a", "places": 0}}})
    assert not validator.is_valid({"meta": {"type": "shelf", "options": {"label": "a"}}})


def test_options_of_an_installed_backend_type_are_checked_and_shown(installed: Path, tmp_path: Path) -> None:
    path = tmp_path / "backend.json"
    path.write_text(json.dumps({"resource": {"type": "shelf", "options": {"label": "a", "lock": "hunter2"}}}))
    done = run(installed, "-m", "specstar.cli", "show", str(path), "--json")
    options = json.loads(done.stdout)["roles"]["resource"]["options"]
    assert options["label"] == {"value": "a", "origin": "given"}
    assert options["lock"] == {"value": "***", "origin": "given"}

    path.write_text(json.dumps({"meta": {"type": "shelf"}, "resource": {"type": "shelf", "options": {"lable": "a"}}}))
    done = run(installed, "-m", "specstar.cli", "show", str(path))
    assert done.returncode == 1
    assert "resource.options.lable: unknown option (did you mean 'label'?)" in done.stderr
    assert "resource.options.label: required option is missing (label or shelf_label)" in done.stderr
    assert "meta.type: backend type 'shelf' has no role 'meta'; it has: resource" in done.stderr


def test_the_type_is_unknown_where_the_package_is_not_installed(tmp_path: Path) -> None:
    path = tmp_path / "backend.json"
    path.write_text(json.dumps({"resource": {"type": "shelf"}}))
    done = run(tmp_path, "-m", "specstar.cli", "show", str(path))
    assert done.returncode == 1
    assert "unknown backend type 'shelf'" in done.stderr
