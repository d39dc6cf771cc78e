"""The fixtures and tests that the documentation shows to users run as they are, in a project of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "docs" / "examples" / "callers"


def test_the_tests_that_users_are_shown_pass_on_asyncio_and_trio(tmp_path: Path) -> None:
    for name in ("conftest.py", "test_users.py", "files_app.py", "test_files_app.py", "memory.json"):
        shutil.copy(EXAMPLES / name, tmp_path)
    (tmp_path / "pytest.toml").write_text('[pytest]\nanyio_mode = "auto"\nfilterwarnings = ["error"]\n')
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # The async ones run twice, on asyncio and on trio.
    assert "9 passed" in ran.stdout
