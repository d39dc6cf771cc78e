"""The ledger itself: what is counted is what is printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.ledger import Figures, fault_count, table, write_page


def test_counts_of_one_name_are_one_row() -> None:
    text = table(
        [Figures("power cut", 3, 10, 1, 0, 0.5), Figures("power cut", 4, 5, 0, 2, 0.25), Figures("a full disk", 1)]
    )
    rows = text.splitlines()[2:]
    assert rows == ["| a full disk | 1 | 0 | 0 | 0 | 0.00 s |", "| power cut | 7 | 15 | 1 | 2 | 0.50 s |"]


def test_the_page_keeps_what_is_around_the_figures(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- begin of the newest figures: written by make faults -->\nold\n<!-- end of the newest figures -->\nafter\n"
    )
    write_page(page, [Figures("kill", 2)])
    write_page(page, [Figures("cut", 2)])
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("-->\nafter\n")
    assert "| cut | 2 |" in text
    assert "kill" not in text
    page.write_text("nothing\n")
    with pytest.raises(ValueError, match="lacks"):
        write_page(page, [])


def test_the_count_never_falls_below_the_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECSTAR_FAULTS", raising=False)
    assert fault_count(5) == 5
    monkeypatch.setenv("SPECSTAR_FAULTS", "200")
    assert fault_count(5) == 200
    assert fault_count(5, share=0.1) == 20
    assert fault_count(5, share=0.001) == 5
