"""The Python code blocks of the README and the documentation satisfy mypy, as strictly as the package itself does."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.docs.code_blocks import PAGES, ROOT, blocks

# The pages await where a notebook could.
FUNCTION = "async def page() -> None:\n"


def module_of(page: str) -> str:
    """All blocks of a page in one function, at the lines that they have there."""
    lines = [FUNCTION]
    for line, source in blocks(page):
        lines.extend("\n" for _ in range(line - 1 - len(lines)))
        lines.extend(textwrap.indent(source, "    ").splitlines(keepends=True))
    return "".join(lines)


def checked(directory: Path, modules: dict[str, str]) -> str:
    """What mypy says of the modules, with the names of their pages in place of those of the files."""
    files = {page: directory / f"page_{number}.py" for number, page in enumerate(modules)}
    for page, file in files.items():
        file.write_text(modules[page], encoding="utf-8")
    ran = subprocess.run(
        # With the options of `make types`, so that it shares its cache.
        [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", *map(str, files.values())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    said = ran.stdout + ran.stderr
    for page, file in files.items():
        said = said.replace(f"{file}:", f"{page}:")
    assert ran.returncode in {0, 1}, said
    return said


def test_the_code_of_all_pages_has_no_type_errors(tmp_path: Path) -> None:
    assert checked(tmp_path, {page: module_of(page) for page in PAGES}) == ""


def test_a_mistake_is_told_with_its_page_and_line(tmp_path: Path) -> None:
    right = module_of("docs/jobs.md")
    line = right.splitlines().index("    print(done.status, done.attempts, done.result.message_id)") + 1
    wrong = right.replace("done.result.message_id", "done.result.mesage_id")
    assert checked(tmp_path, {"docs/jobs.md": wrong}).startswith(
        f'docs/jobs.md:{line}: error: "Receipt" has no attribute "mesage_id"'
    )
    page = (ROOT / "docs/jobs.md").read_text(encoding="utf-8").splitlines()
    assert page[line - 1] == "print(done.status, done.attempts, done.result.message_id)"
