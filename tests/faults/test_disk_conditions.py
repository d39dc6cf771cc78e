"""Disk: full, read-only, and without permission: refused with advice while it lasts, and working at once when it is over."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import pytest

from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.disk_conditions import CONDITIONS
from tests.faults.tools.file_faults import run_program


@pytest.mark.timeout(900)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_calls_are_refused_while_it_lasts_and_work_when_it_is_over(
    condition: str, figures: Figures, file_faults: Path, tmp_path: Path
) -> None:
    figures.name = f"disk: {condition}"
    seed = os.environ.get("SPECSTAR_FAULTS_SEED") or secrets.token_hex(4)
    settings = {"condition": condition, "rounds": fault_count(3, share=0.2), "seed": seed}
    try:
        output = run_program(file_faults, "tests.faults.tools.disk_conditions", str(tmp_path), json.dumps(settings))
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from None
    found = Figures.decoded(output)
    figures.faults, figures.acknowledged = found.faults, found.acknowledged
    figures.longest_stall = found.longest_stall
    assert figures.faults > 0
    assert figures.longest_stall < 10
