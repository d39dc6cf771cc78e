"""All managers against a plain model: random calls, alone and together, with closing and opening anew between them."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.faults.ledger import Figures, fault_count
from tests.faults.model.jobs import ManagersAndJobs
from tests.faults.tools.bindings import configuration

# The binding, the event loop of the callers, and the examples of a short run; the first of them is always a trivial one.
PLACES = [
    ("memory", "asyncio", 10),
    ("memory", "trio", 10),
    ("disk", "asyncio", 6),
    ("disk", "trio", 6),
    ("postgres", "asyncio", 4),
    ("s3", "trio", 2),
    ("postgres+disk", "trio", 3),
    ("disk/rabbitmq", "trio", 3),
    ("postgres/rabbitmq", "asyncio", 3),
    ("postgres+s3/rabbitmq", "asyncio", 2),
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "loop", "examples"), PLACES, ids=[f"{kind}-{loop}" for kind, loop, _ in PLACES])
def test_the_managers_do_what_plain_python_does(
    kind: str, loop: str, examples: int, figures: Figures, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    figures.name = "random calls beside a plain model, closed and opened anew"

    class Machine(ManagersAndJobs):
        place = staticmethod(lambda: configuration(kind, request, tmp_path))

    Machine.loop = loop
    Machine.figures = figures
    number = int(os.environ.get("SPECSTAR_FAULTS_SEED") or random.randrange(1 << 32))
    quick = "+" not in kind and "/" not in kind and kind in {"memory", "disk"}
    try:
        run_state_machine_as_test(
            seed(number)(Machine),
            settings=settings(
                max_examples=fault_count(examples, share=examples / 20),
                stateful_step_count=30,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink] if quick else [Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as error:
        error.add_note(f"SPECSTAR_FAULTS_SEED={number}")
        raise
    assert figures.lost == figures.duplicated == 0
