"""python -m services install | up | run: the project's servers from the command line. See docs/servers.md."""

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from services.errors import ServiceError
from services.host import ServiceHost, ServiceName
from services.programs import PROGRAMS, install

# The variables that say where a server is, as docs/examples use them in configurations.
VARIABLES: dict[ServiceName, str] = {"postgres": "POSTGRES_DSN", "rabbitmq": "AMQP_URL", "s3": "S3_ENDPOINT_URL"}
DEFAULT: tuple[ServiceName, ...] = ("postgres", "rabbitmq", "s3")


def named_by(configuration: str, environment: Mapping[str, str]) -> list[ServiceName]:
    """The servers whose variable a configuration uses and the environment does not set."""
    used = set(re.findall(r"\$\{?(\w+)", configuration))
    return [name for name, variable in VARIABLES.items() if variable in used and not environment.get(variable)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="install missing server programs (apt-get, as root)")
    up = commands.add_parser("up", help="start servers, print their variables, stop them on Ctrl-C or SIGTERM")
    run = commands.add_parser("run", help="run a command with servers of its own; its exit status is ours")
    for subparser in (up, run):
        subparser.add_argument(
            "servers", nargs="*", metavar="SERVER", help=f"any of {', '.join(DEFAULT)} (default: all of them)"
        )
    up.add_argument("--env-file", type=Path, help="also write the variables to this file, readable by you alone")
    run.add_argument(
        "--for", dest="configuration", type=Path, help="start the servers whose variables this configuration uses"
    )
    run.add_argument("--install", action="store_true", help="first install their programs where they are missing")
    given = sys.argv[1:] if arguments is None else arguments
    head, command = partition(given)
    chosen = parser.parse_args(head)
    if unknown := set(getattr(chosen, "servers", ())) - set(DEFAULT):
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    if chosen.command == "run" and not command:
        parser.error("run needs a command after --")
    try:
        if chosen.command == "install":
            return install_all()
        if chosen.command == "up":
            return run_up(chosen.servers or list(DEFAULT), chosen.env_file)
        if chosen.configuration is not None:
            servers = named_by(chosen.configuration.read_text(encoding="utf-8"), os.environ)
        else:
            servers = chosen.servers or list(DEFAULT)
        if chosen.install and (installed := install(servers)):
            print(f"services: installed {' '.join(installed)}", file=sys.stderr, flush=True)
        return run_command(servers, command)
    except (ServiceError, OSError) as error:
        print(f"services: {error}", file=sys.stderr)
        return 1


def partition(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and the command after the first `--`."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]


def install_all() -> int:
    installed = install(PROGRAMS)
    print(f"installed {' '.join(installed)}" if installed else "all server programs are there")
    return 0


def start(host: ServiceHost, servers: list[ServiceName]) -> dict[str, str]:
    if not servers:
        return {}
    began = time.monotonic()
    print(f"services: starting {', '.join(servers)}", file=sys.stderr, flush=True)
    environment = host.environment(servers)
    print(f"services: ready after {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return environment


def run_up(servers: list[ServiceName], env_file: Path | None) -> int:
    with ServiceHost() as host:
        stop_on_signals()
        try:
            lines = "".join(f"{key}={shlex.quote(value)}\n" for key, value in start(host, servers).items())
            if env_file is not None:
                env_file.touch(mode=0o600)
                env_file.write_text(lines, encoding="utf-8")
            print(lines, end="", flush=True)
            while True:
                signal.pause()
        except Stopped:
            return 0


def run_command(servers: list[ServiceName], command: list[str]) -> int:
    with ServiceHost() as host:
        stop_on_signals()
        child: subprocess.Popen[bytes] | None = None
        try:
            environment = start(host, servers)
            child = subprocess.Popen(command, env={**os.environ, **environment})
            return exit_status(child.wait())
        except Stopped as stopped:
            if child is None:
                return 128 + stopped.number
            # Ctrl-C reaches the command by itself, through the terminal.
            if stopped.number != signal.SIGINT:
                child.terminate()
            return exit_status(wait_or_kill(child))


def wait_or_kill(child: subprocess.Popen[bytes]) -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        return child.wait(30)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()


def exit_status(code: int) -> int:
    return code if code >= 0 else 128 - code


class Stopped(BaseException):
    """A signal asks us to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stop_on_signals() -> None:
    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
