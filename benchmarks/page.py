"""The newest results in the documentation, between two markers of its page."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.figures import CaseResult

__all__ = ["refresh"]

BEGIN = "<!-- begin of the newest results: written by python -m benchmarks -->"
END = "<!-- end of the newest results -->"


def refresh(page: Path, document: Mapping[str, Any], results: Sequence[CaseResult], pictures: Sequence[Path]) -> None:
    """Write the tables between the markers, and copy the pictures beside the page."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page} lacks the markers of the results")
    folder = page.parent / "benchmarks"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for picture in pictures:
        shutil.copyfile(picture, folder / picture.name)
    shown = render(document, results, [picture.name for picture in pictures])
    pattern = re.escape(BEGIN) + ".*" + re.escape(END)
    page.write_text(re.sub(pattern, lambda _: f"{BEGIN}\n\n{shown}\n\n{END}", text, flags=re.DOTALL), encoding="utf-8")


def render(document: Mapping[str, Any], results: Sequence[CaseResult], pictures: Sequence[str]) -> str:
    """The results as Markdown."""
    machine = document["machine"]
    met, measured = table.count_targets(results)
    parts = [
        (
            f"Measured {machine['time'][:10]} at revision {machine['revision'] or 'unknown'} on {machine['cpu']}, "
            f"{machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}, {machine['python']}; "
            f"load average at the start {machine['load']}. {document['rounds']} rounds of {document['seconds']:g} s for each "
            f"figure, payloads of {document['payload']} bytes, event loop {document['loop']} for all contestants on asyncio. "
            f"Versions: {_versions(document['contestants'])}."
        ),
        f"Targets met: {met} of {measured}.",
    ]
    if document["failed"]:
        parts.append(f"Not measured, because a contestant failed: {', '.join(document['failed'])}.")
    for suite in dict.fromkeys(result.suite for result in results):
        mine = [result for result in results if result.suite == suite]
        parts.append(f"### {suite}")
        parts.append(table.figures_markdown(mine))
        if any(result.case.targets for result in mine):
            parts.append(table.targets_markdown(mine))
        parts.append(table.notes_markdown(document["notes"][suite]))
        parts += [
            f"![{suite}](benchmarks/{name})"
            for name in pictures
            if name == f"{suite}.svg" or name.startswith(f"{suite}-")
        ]
    return "\n\n".join(part for part in parts if part)


def _versions(contestants: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    found: dict[str, str] = {}
    for about in (about for suite in contestants.values() for about in suite.values()):
        # Two specstars take part; the other is named with its version.
        found.update(
            {name: version for name, version in about["versions"].items() if (name, version) != ("specstar", "0.12.3")}
        )
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
