"""What editors see of the package: nearly every public name says its type, so that none is left to a checker's guess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# pyright does not follow some bases that are generic over a name of a module that imports them.
FLOOR = 0.998


def test_public_names_say_their_types() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "specstar", "--ignoreexternal", "--outputjson"],
        cwd=ROOT,
        # It asks the first Python on the path where packages are.
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode in {0, 1}, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)["typeCompleteness"]
    assert Path(found["packageRootDirectory"]) == ROOT / "specstar"
    untold = [
        f"{symbol['name']}: {problem['message']}"
        for symbol in found["symbols"]
        if symbol["isExported"] and not symbol["isTypeKnown"]
        for problem in symbol["diagnostics"]
    ]
    assert found["completenessScore"] >= FLOOR, "\n".join(untold)
    # Where the libraries themselves were not found, nearly nothing would be known.
    assert sum(found["exportedSymbolCounts"].values()) > 1000
