"""Where the servers' programs lie, and how to install those that are missing."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from services.errors import MissingProgramError, ServiceError

# Places that distributions use and PATH often lacks, newest PostgreSQL first.
_PLACES = ("/usr/sbin", "/usr/bin", "/sbin", "/usr/local/sbin", "/usr/local/bin", "/usr/lib/rabbitmq/bin")

# Program -> the Debian and Ubuntu package that brings it.
PROGRAMS: dict[str, dict[str, str]] = {
    "postgres": dict.fromkeys(("initdb", "postgres", "pg_isready", "psql"), "postgresql"),
    "pgbouncer": {"pgbouncer": "pgbouncer"},
    "rabbitmq": {"rabbitmq-server": "rabbitmq-server", "rabbitmqctl": "rabbitmq-server", "epmd": "erlang-base"},
    "s3": {
        "radosgw": "radosgw",
        "radosgw-admin": "radosgw",
        "ceph-mon": "ceph-mon",
        "ceph-osd": "ceph-osd",
        "ceph-authtool": "ceph-common",
        "monmaptool": "ceph-common",
        "osdmaptool": "ceph-common",
    },
}


def version_of(directory: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", directory.parent.name))


def _places(program: str) -> Iterable[Path]:
    if program == "epmd":
        yield from sorted(Path("/usr/lib/erlang").glob("erts-*/bin"), reverse=True)
    if program in PROGRAMS["postgres"]:
        yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version_of, reverse=True)
    if program.startswith("rabbitmq"):
        # Debian's wrapper in /usr/sbin switches to the system's own broker; the real script is here.
        yield from (Path("/usr/lib/rabbitmq/bin"), *Path("/opt").glob("rabbitmq*/sbin"))
    yield from map(Path, os.environ.get("PATH", "").split(os.pathsep))
    yield from map(Path, _PLACES)


def find(program: str) -> Path | None:
    """The full path of a program, or None."""
    for place in _places(program):
        path = place / program
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


def need(program: str) -> Path:
    """The full path of a program. Raises MissingProgramError, which says what to install."""
    path = find(program)
    if path is None:
        service = next((name for name, programs in PROGRAMS.items() if program in programs), program)
        raise MissingProgramError(f"{program} is not installed. {advice(missing([service]))}")
    return path


def missing(services: Iterable[str]) -> list[str]:
    """The packages that the named services still need, each once."""
    packages: dict[str, None] = {}
    for service in services:
        for program, package in PROGRAMS[service].items():
            if find(program) is None:
                packages[package] = None
    return list(packages)


def advice(packages: Iterable[str]) -> str:
    names = " ".join(packages)
    return (
        "Run `make services` as root on Debian or Ubuntu, or install there: "
        f"apt-get install --no-install-recommends {names}. Elsewhere, point the tests at servers of your own "
        "(docs/servers.md)."
    )


def install(services: Iterable[str]) -> list[str]:
    """Installs what is missing with apt-get; returns the packages it installed.

    Raises MissingProgramError where it may not or cannot, ServiceError when apt-get fails.
    """
    packages = missing(services)
    if not packages:
        return []
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise MissingProgramError(advice(packages))
    # The packages would start servers of their own; policy-rc.d is Debian's way to say no, where nobody set one.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait_for_lock = ("-o", "DPkg::Lock::Timeout=300")
    try:
        for command in (
            [apt, *wait_for_lock, "-qq", "update"],
            [apt, *wait_for_lock, "-qq", "-y", "--no-install-recommends", "install", *packages],
        ):
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise ServiceError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    finally:
        if ours:
            policy.unlink(missing_ok=True)
    still = missing(services)
    if still:
        raise MissingProgramError(f"installed {' '.join(packages)}, yet programs are missing. {advice(still)}")
    return packages
