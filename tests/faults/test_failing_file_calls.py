"""Disk: every file call of every operation fails once, and from there on: EIO, no space, half a write."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import pytest

from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.failing_calls import FAULTS, OPERATIONS
from tests.faults.tools.file_faults import run_program


@pytest.mark.timeout(900)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_whatever_file_call_fails_the_caller_is_told_and_nothing_acknowledged_is_lost(
    operation: str, figures: Figures, file_faults: Path, tmp_path: Path
) -> None:
    """Each call number in turn, until none is left to fail; after each the state is old or new, and the next call works.

    A copy of the folder is opened as a new process would find it: what was refused must not come to life there.
    """
    figures.name = "disk: file calls that fail"
    thorough = fault_count(0) > 0
    settings = {
        "operations": [operation],
        "faults": list(FAULTS),
        "all": thorough,
        "copy_every": 1 if thorough else 5,
        "seed": os.environ.get("SPECSTAR_FAULTS_SEED") or secrets.token_hex(4),
    }
    output = run_program(file_faults, "tests.faults.tools.failing_calls", str(tmp_path), json.dumps(settings))
    found = Figures.decoded(output)
    figures.faults, figures.acknowledged = found.faults, found.acknowledged
    figures.longest_stall = found.longest_stall
    assert figures.faults > 0
    assert figures.longest_stall < 10
