"""The command line: what it prints, where, and its exit status."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest

from specstar.cli import main

ROOT = Path(__file__).parents[3]
CONFIG: dict[str, Any] = {
    "defaults": {"table_prefix": "app_"},
    "connections": {
        "pg": {"type": "postgres", "options": {"dsn": "${DSN}", "pool_max_size": 4}, "tags": ["eu"]},
        "jobs": {"type": "simple"},
    },
    "meta": {"use": "pg"},
    "resource": {"use": "pg"},
    "blob": {"type": "disk", "options": {"rootdir": "./data"}},
    "mq": {"use": "jobs"},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSN", "postgresql://user:hunter2@host/db")
    return written(tmp_path, CONFIG)


def written(folder: Path, tree: Any) -> Path:
    path = folder / "backend.json"
    path.write_text(json.dumps(tree))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def imported(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> Any:
    """A program of this text, in `folder`, where the command finds it, too."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    return importlib.import_module(name)


def test_show_prints_each_role_with_its_options_and_no_secret(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out, err = run(capsys, "show", config)
    lines = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert "meta, resource: postgres (connection 'pg', tags eu)" in out
    assert "hunter2" not in out
    assert ["table_prefix", "app_", "defaults"] in lines
    assert ["pool_max_size", "4", "connection"] in lines
    assert ["pool_min_size", "1"] in lines or ["pool_min_size", "0"] in lines
    assert ["rootdir", "./data", "binding"] in lines
    assert "\x1b" not in out


def test_show_as_json(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out, _ = run(capsys, "show", config, "--json")
    roles = json.loads(out)["roles"]
    assert status == 0
    assert {role: (found["type"], found["connection"]) for role, found in roles.items()} == {
        "meta": ("postgres", "pg"),
        "resource": ("postgres", "pg"),
        "blob": ("disk", None),
        "mq": ("simple", "jobs"),
    }
    assert roles["meta"]["options"]["dsn"]["origin"] == "connection"
    assert roles["meta"]["options"]["table_prefix"] == {"value": "app_", "origin": "defaults"}
    assert roles["blob"]["options"]["rootdir"] == {"value": "./data", "origin": "given"}
    assert roles["blob"]["options"]["encoding"]["origin"] == "default"
    assert "hunter2" not in out


def test_show_says_that_no_queue_is_bound(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = written(tmp_path, {})
    assert "mq: not bound" in run(capsys, "show", path)[1]
    assert json.loads(run(capsys, "show", path, "--json")[1])["roles"]["mq"] is None


def test_values_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tree = {
        "connections": {"a\x1b[31m": {"type": "disk", "options": {"rootdir": "[red]\x1b]0;title\x07x\u202e"}}},
        "meta": {"use": "a\x1b[31m"},
    }
    out = run(capsys, "show", written(tmp_path, tree))[1]
    assert "[red]\\x1b]0;title\\x07x\\u202e" in out
    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    err = run(capsys, "show", written(tmp_path, {"a\x1b[31m": 1}))[2]
    assert "\x1b" not in err


@pytest.mark.parametrize("command", ["show", "check", "gc"])
def test_a_wrong_configuration_is_told_on_stderr(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    path = written(tmp_path, {"meta": {"type": "memry"}, "blob": {"use": "x"}})
    status, out, err = run(capsys, command, path)
    assert (status, out) == (1, "")
    assert "2 problems in the configuration" in err
    assert "did you mean 'memory'?" in err
    assert "Traceback" not in err


def test_check_reports_every_role(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = written(tmp_path, {"blob": {"type": "disk", "options": {"rootdir": str(tmp_path / "data")}}})
    status, out, err = run(capsys, "check", path)
    rows = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert rows[0][:4] == ["role", "backend", "connection", "state"]
    assert [row[:4] for row in rows[1:]] == [
        ["meta", "memory", "-", "ok"],
        ["resource", "memory", "-", "ok"],
        ["blob", "disk", "-", "ok"],
    ]


def test_check_fails_if_one_role_does(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = written(tmp_path, {"blob": {"type": "disk", "options": {"rootdir": str(tmp_path / "file" / "x")}}})
    status, out, _ = run(capsys, "check", path)
    assert status == 1
    assert [line.split()[3] for line in out.splitlines()[1:]] == ["ok", "ok", "FAILED"]
    status, out, _ = run(capsys, "check", path, "--json")
    found = json.loads(out)
    assert (status, found["ok"]) == (1, False)
    assert [(role["role"], role["ok"]) for role in found["roles"]] == [
        ("meta", True),
        ("resource", True),
        ("blob", False),
    ]
    assert found["roles"][2]["problem"]


def test_check_gives_problems_of_the_configuration_as_json_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = run(capsys, "check", written(tmp_path, {"mta": 1}), "--json")
    found = json.loads(out)
    assert (status, found["ok"]) == (1, False)
    assert found["problems"] == [{"path": "mta", "reason": "unknown key", "suggestion": "meta"}]
    assert "unknown key" in err


def test_schema_prints_a_schema_that_the_config_meets(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "schema")
    schema = json.loads(out)
    assert status == 0
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(CONFIG)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frob"], "frob"),
        (["show"], "FILE"),
        (["show", "a", "b"], "b"),
        (["check", "x.json", "--timeout", "soon"], "soon"),
        (["check", "x.json", "--jsn"], "--json"),
        (["show", "none.json"], "there is no such file"),
        (["worker", "nothing"], "expected MODULE:NAME"),
        (["worker", "no_such_module_of_ours:spec"], "there is no module 'no_such_module_of_ours'"),
        (["worker", "json:no.such"], "module 'json' has no 'no.such'"),
        (["worker", "json:dumps"], "not a SpecStar"),
        (["worker", "specstar:spec", "--concurrency", "0"], "--concurrency must be 1 or more"),
        (["worker", "specstar:spec", "--drain-timeout", "-1"], "--drain-timeout must be 0 or more"),
        (["worker", "specstar.sync:spec"], "no jobs to run"),
        (["worker", "specstar:spec", "--queue", "mails"], "no job 'mails' is declared"),
        (["jobs", "json:dumps"], "not a SpecStar"),
        (["dead", "specstar:spec", "mails"], "no job 'mails' is declared"),
        (["dead", "specstar:spec", "mails", "--requeue"], "take ids or --all"),
        (["dead", "specstar:spec", "mails", "some-id"], "take ids or --all"),
        (["dead", "specstar:spec", "mails", "some-id", "--all", "--purge"], "ids or --all, not both"),
        (["dead", "specstar:spec", "mails", "--all", "--purge", "--requeue"], "not both"),
        (["dead", "specstar:spec", "mails", "--limit", "0"], "--limit must be 1 or more"),
    ],
)
def test_wrong_use_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("specstar: ")
    assert said in err
    assert "Traceback" not in err


def test_a_program_that_fails_to_import_is_told_with_its_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "program_that_breaks.py").write_text("import os\nraise ValueError('no luck')\n")
    (tmp_path / "program_that_lacks.py").write_text("import a_package_that_is_missing\n")
    assert "ValueError: no luck" in (err := run(capsys, "gc", "program_that_breaks:spec")[2])
    assert "program_that_breaks.py, line 2" in err
    assert "No module named 'a_package_that_is_missing'" in run(capsys, "worker", "program_that_lacks:spec")[2]


JOB_PROGRAM = """
from msgspec import Struct

from specstar import Job, SpecStar


class Mail(Struct):
    to: str


spec = SpecStar()


@spec.job
def mail(job: Job[Mail]) -> None: ...


@spec.job(keep_state=False)
def ping(job: Job[Mail]) -> None: ...


disk = {"type": "disk", "options": {"rootdir": "data"}}
spec.configure(backend={"meta": disk, "resource": disk, "mq": {"type": "simple"}})
forgetful = SpecStar()
forgetful.add_job(Mail, lambda job: None, name="mail")
forgetful.configure(backend={"mq": {"type": "simple"}})
"""


def test_job_shows_one_job_and_cancels_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = imported(tmp_path, monkeypatch, "one_job_program", JOB_PROGRAM)

    async def sent() -> str:
        async with program.spec:
            job = await program.mail.enqueue(program.Mail("ada\x1b"), partition_key="k", delay=60)
        return str(job.job_id)

    job_id = anyio.run(sent)
    status, out, err = run(capsys, "job", "one_job_program:spec", "mail", job_id)
    lines = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert ["status", "pending"] in lines
    assert ["partition_key", "k"] in lines
    assert ["job_id", job_id] in lines
    assert "\x1b" not in out
    status, out, err = run(capsys, "job", "one_job_program:spec", "mail", job_id, "--cancel", "--json")
    assert (status, json.loads(out)["job"]["status"], json.loads(out)["cancelled"]) == (0, "cancelled", True)
    status, out, err = run(capsys, "job", "one_job_program:spec", "mail", job_id, "--cancel")
    assert (status, out.splitlines()[-1]) == (1, "cancelled: no, it had ended")

    for target, name, said in (
        ("spec", "mail", "job 'nobody' does not exist in 'mail'"),
        ("spec", "male", "no job 'male' is declared"),
        ("spec", "ping", "job 'ping' keeps no state"),
        ("forgetful", "mail", "lives in the memory of the program"),
    ):
        status, out, err = run(capsys, "job", f"one_job_program:{target}", name, "nobody")
        assert (status, out) == (1, "")
        assert said in err


def test_jobs_of_one_type_are_shown_one_by_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "listed_program.py").write_text(JOB_PROGRAM)
    program = importlib.import_module("listed_program")

    async def sent() -> list[str]:
        async with program.spec:
            jobs = [await program.mail.enqueue(program.Mail(f"user{number}\x1b"), delay=60) for number in range(3)]
            assert await program.mail.cancel(jobs[0].job_id)
        return [str(job.job_id) for job in jobs]

    first, second, third = anyio.run(sent)
    command = ("jobs", "listed_program:spec", "mail")
    status, out, err = run(capsys, *command)
    lines = [line.split() for line in out.splitlines()]
    assert (status, err) == (0, "")
    assert lines[0] == ["job", "id", "status", "attempts", "created", "finished", "error"]
    assert [line[:3] for line in lines[1:]] == [
        [third, "pending", "0"],
        [second, "pending", "0"],
        [first, "cancelled", "0"],
    ]
    listed = json.loads(run(capsys, *command, "--status", "cancelled", "--json")[1])["jobs"]
    assert [(one["job_id"], one["payload"]) for one in listed] == [(first, {"to": "user0\x1b"})]
    assert len(run(capsys, *command, "--limit", "1")[1].splitlines()) == 2

    for arguments, said in (
        (("listed_program:spec", "male"), "no job 'male' is declared"),
        (("listed_program:spec", "ping"), "job 'ping' keeps no state"),
        (("listed_program:forgetful", "mail"), "lives in the memory of the program"),
        (("listed_program:spec", "--status", "failed"), "--status goes with the name of a job"),
        (("listed_program:spec", "mail", "--limit", "0"), "--limit must be 1 or more"),
        (("listed_program:spec", "mail", "--status", "dead"), "--status"),
    ):
        status, out, err = run(capsys, "jobs", *arguments)
        assert (status, out) == (1, "")
        assert said in err


def test_shells_complete_commands_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        status, out, err = run(capsys, "completion", shell)
        assert (status, err) == (0, "")
        assert "--log-level" in out
    assert run(capsys, "completion", "tcsh")[0] == 1
    (tmp_path / "specstar").write_text(run(capsys, "completion", "bash")[1])
    asked = 'source specstar; COMP_WORDS=(specstar wor); COMP_CWORD=1; _specstar; echo "${COMPREPLY[@]}"'
    asked += '; COMP_WORDS=(specstar worker a:b --loop t); COMP_CWORD=4; _specstar; echo "${COMPREPLY[@]}"'
    bash = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True)
    assert bash.stdout.splitlines() == ["worker", "trio"]


def test_gc_says_what_it_removed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = written(tmp_path, {"blob": {"type": "disk", "options": {"rootdir": str(tmp_path / "data")}}})
    status, out, err = run(capsys, "gc", path)
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [["of", "removed"], ["blobs", "0"]]
    assert json.loads(run(capsys, "gc", path, "--json", "--older-than-seconds", 60)[1]) == {"removed": {"blobs": 0}}


COPIED = """
import json
from msgspec import Struct
from specstar.sync import SpecStar

class User(Struct):
    name: str

def on(folder):
    disk = {"type": "disk", "options": {"rootdir": folder}}
    return {"meta": disk, "resource": disk, "blob": disk}

spec = SpecStar()
users = spec.add_model(User)
spec.configure(backend=on("old"))
other = SpecStar()
theirs = other.add_model(User)
other.configure(backend=on("new"))
with open("new.json", "w") as file:
    json.dump(on("new"), file)
"""


def test_copy_says_what_it_copied_and_what_it_did_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = imported(tmp_path, monkeypatch, "copied_program", COPIED)
    with program.spec:
        for name in ("ada", "bob"):
            program.users.create(program.User(name), resource_id=name)
        program.spec.blobs.put(b"bytes")
    status, out, err = run(capsys, "copy", "copied_program:spec", "new.json")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["of", "copied", "unchanged", "failed"],
        ["User", "2", "0", "0"],
        ["blobs", "1", "0", "0"],
    ]
    with program.other:
        assert program.theirs.get("ada").data.name == "ada"
        program.theirs.update("ada", program.User("of the target"))
    status, out, _ = run(capsys, "copy", "copied_program:spec", "new.json")
    assert status == 1
    assert "User 'ada': the target has another resource of this id" in out
    status, out, _ = run(capsys, "copy", "copied_program:spec", "new.json", "--json")
    assert [(each["name"], each["unchanged"], each["failed"]) for each in json.loads(out)["copied"]] == [
        ("User", 1, 1),
        ("blobs", 1, 0),
    ]
    assert "no such file" in run(capsys, "copy", "copied_program:spec", "missing.json")[2].lower()


OF_ITS_OWN = (
    COPIED
    + """
from specstar.resource_manager import DiskStorageFactory
class Log(Struct):
    text: str
logs = spec.add_model(Log, storage_factory=DiskStorageFactory("logs"))
with open("new-logs.json", "w") as file:
    json.dump(on("new-logs"), file)
"""
)


def test_copy_tells_of_models_with_a_storage_of_their_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program = imported(tmp_path, monkeypatch, "program_with_logs", OF_ITS_OWN)
    with program.spec:
        program.logs.create(program.Log("a line"))
    copy = ("copy", "program_with_logs:spec", "new.json")

    def rows(out: str) -> list[list[str]]:
        return [line.split() for line in out.splitlines()[1:]]

    status, out, _ = run(capsys, *copy)
    assert status == 1
    assert rows(out)[:3] == [["User", "0", "0", "0"], ["Log", "0", "0", "1"], ["blobs", "0", "0", "0"]]
    assert "Log 1 resources are not copied: the model has a storage of its own" in out
    status, out, _ = run(capsys, *copy, "--stays", "Log")
    assert (status, rows(out)) == (0, [["User", "0", "0", "0"], ["blobs", "0", "0", "0"]])
    status, out, _ = run(capsys, *copy, "--model", "Log=new-logs.json")
    assert (status, rows(out)[1]) == (0, ["Log", "1", "0", "0"])
    status, out, _ = run(capsys, *copy, "--model", "Log=new.json", "--model", "User=new-logs.json")
    assert (status, rows(out)[1]) == (0, ["Log", "1", "0", "0"])
    status, _, err = run(capsys, *copy, "--model", "new-logs.json")
    assert (status, "--model takes NAME=FILE" in err) == (1, True)
    status, _, err = run(capsys, *copy, "--stays", "Logs")
    assert (status, "no model 'Logs' is declared" in err, "did you mean 'Log'" in err) == (1, True, True)


def process(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "specstar.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "TERM": "dumb", **environ},
    )


def test_help_and_version_work_in_a_pipe_and_a_plain_locale() -> None:
    for arguments in (["--help"], ["check", "--help"], []):
        done = process(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        assert "specstar" in done.stdout
        assert done.stdout.isascii()
    done = process("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()


def test_output_in_a_pipe_is_plain_whatever_the_values(config: Path) -> None:
    path = written(config.parent, {"blob": {"type": "disk", "options": {"rootdir": "/data/ünïcode"}}})
    done = process("show", path)
    assert done.returncode == 0, done.stderr
    assert "/data/" in done.stdout


@pytest.mark.parametrize("argument", ["schema", "--help", "--version"])
def test_a_reader_that_leaves_is_no_traceback(argument: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        done = subprocess.run(
            [sys.executable, "-m", "specstar", argument], stdout=nobody, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_interrupt_is_told_in_a_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"postgresql://user@127.0.0.1:{silent.getsockname()[1]}/db"
        path = written(tmp_path, {"meta": {"type": "postgres", "options": {"dsn": dsn}}})
        command = [sys.executable, "-m", "specstar", "check", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            silent.settimeout(60)
            held, _ = silent.accept()
            running.send_signal(signal.SIGINT)
            out, errors = running.communicate(timeout=60)
            held.close()
    assert (running.returncode, out) == (130, "")
    assert errors.splitlines()[-1] == "specstar: interrupted"
    assert "Traceback" not in errors


def test_version_and_help_import_no_backend() -> None:
    program = (
        "import sys; from specstar.cli import main; main(['--help']); main(['--version']);"
        "heavy = {'anyio', 'msgspec', 'apsw', 'asyncpg', 'specstar.config', 'specstar.core'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("term", "mark"), [("dumb", "|"), ("xterm", "\x1b[32m")])
def test_a_terminal_gets_a_table_it_can_show(tmp_path: Path, term: str, mark: str) -> None:
    primary, secondary = os.openpty()
    environ = {**os.environ, "TERM": term, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    environ.pop("NO_COLOR", None)
    path = written(tmp_path, {})
    command = [sys.executable, "-m", "specstar.cli", "check", str(path)]
    with subprocess.Popen(command, stdout=secondary, stderr=secondary, env=environ) as running:
        os.close(secondary)
        shown = b""
        with contextlib.suppress(OSError):  # Linux ends a terminal without a writer by an error.
            while chunk := os.read(primary, 65536):
                shown += chunk
        assert running.wait(timeout=60) == 0, shown
    os.close(primary)
    text = shown.decode()
    assert mark in text
    assert ("\x1b" in text) == (term != "dumb")
    assert "resource" in text


WORKER_PROGRAM = """
import time

from msgspec import Struct

from specstar import Job, SpecStar


class Tick(Struct):
    text: str = "tick"


class Holder:
    spec = SpecStar()


@Holder.spec.job(every=0.05, every_payload=Tick())
def tick(job: Job[Tick]) -> None:
    print("begun", flush=True)
    time.sleep(0.5)
    print("ended", flush=True)


@Holder.spec.job(every=0.05, every_payload=Tick())
def other(job: Job[Tick]) -> None:
    print("other", flush=True)


Holder.spec.configure(backend={"mq": {"type": "simple"}})
"""


def test_worker_leaves_the_logging_of_the_program_as_it_is(tmp_path: Path) -> None:
    setup = 'import logging\nlogging.basicConfig(level="WARNING", format="mine: %(message)s")\n'
    program = WORKER_PROGRAM.replace('    print("begun", flush=True)', "    os.kill(os.getpid(), signal.SIGTERM)")
    (tmp_path / "logging_program.py").write_text("import os, signal\n" + setup + program)
    command = [sys.executable, "-m", "specstar.cli", "worker", "logging_program:Holder.spec"]
    for options, least in (([], "WARNING"), (["--log-level", "info"], "INFO")):
        ran = subprocess.run(
            [*command, *options],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "mine: the queues of simple live in one process" in ran.stderr
        assert ("mine: working on" in ran.stderr) == (least == "INFO")
        assert all(line.startswith("mine: ") for line in ran.stderr.splitlines())


def test_worker_runs_the_program_until_sigterm_and_then_exits_with_0(tmp_path: Path) -> None:
    (tmp_path / "draining_program.py").write_text(WORKER_PROGRAM)
    command = [sys.executable, "-m", "specstar.cli", "worker", "draining_program:Holder.spec"]
    options = ["--concurrency", "1", "--drain-timeout", "20", "--queue", "tick", "--log-level", "debug"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environ
    ) as running:
        assert running.stdout is not None
        try:
            first = running.stdout.readline()
            running.send_signal(signal.SIGTERM)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, first) == (0, "begun\n"), err
    assert "other" not in out  # which is another queue
    # What runs is finished: the last thing said is an end.
    assert out.endswith("ended\n"), (out, err)
    assert "Traceback" not in err
    assert "in 'tick' succeeded in" in err
    assert "the queues of simple live in one process" in err
