"""The virtual environments of the contestants that cannot live in ours, made when first needed."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.case import Environment

__all__ = ["EnvironmentFailed", "interpreter"]

ROOT = Path(__file__).resolve().parent.parent
_REQUIREMENTS: dict[Environment, tuple[str, ...]] = {
    # The name clashes with ours, and so do its dependencies.
    "old": ("specstar==0.12.3", "pika>=1.4,<2", "psycopg2-binary>=2.9,<3", "sqlalchemy>=2,<3", "boto3>=1.40"),
    "rivals": (
        "aio-pika>=10,<11",
        "asyncpg>=0.32",
        "celery>=5.7,<6",
        "dramatiq[rabbitmq]>=2.2,<3",
        "faststream[rabbit]>=0.7,<0.8",
        "msgspec>=0.22",
        "pgqueuer[asyncpg]>=1.6,<2",
        "sqlalchemy[asyncio]>=2,<3",
        "taskiq>=0.13,<0.14",
        "taskiq-aio-pika>=0.6,<0.7",
        "uvloop>=0.23",
    ),
}


class EnvironmentFailed(RuntimeError):
    """A virtual environment could not be made."""


def interpreter(environment: Environment) -> Path:
    """The Python of an environment; makes it, and makes it again when its requirements changed."""
    if environment == "own":
        return Path(sys.executable)
    folder = ROOT / f".venv-bench-{environment}"
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    wanted = "\n".join((f"{sys.version_info[0]}.{sys.version_info[1]}", *_REQUIREMENTS[environment]))
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"Making {folder.name} (once): {', '.join(_REQUIREMENTS[environment])}", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *_REQUIREMENTS[environment]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise EnvironmentFailed(
            f"{folder.name} could not be made:\n{done.stderr[-2000:]}\nWithout the other libraries: --no-rivals"
        )
    stamp.write_text(wanted)
    return python
