"""Results as pictures: bars per operation, and curves of throughput, latency and cost."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import CaseResult
from benchmarks.table import short

__all__ = ["draw"]

_OURS = ("#1f6f54", "#5fb892", "#0b3d2e", "#93d3b5")
_THEIRS = ("#c9a227", "#8d8d8d", "#b5533c", "#5b7db1", "#9a6fb0", "#6b8e23", "#c27ba0", "#444444")


def draw(results: Sequence[CaseResult], ours: frozenset[str], folder: Path) -> list[Path]:
    """Write one SVG a suite with bars, and one an operation with curves; returns their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"svg.hashsalt": "specstar", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False})
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suite in dict.fromkeys(result.suite for result in results):
        mine = [result for result in results if result.suite == suite]
        bars = [result for result in mine if result.case.curve is None and result.case.points is None]
        if bars:
            paths.append(_bars(suite, bars, ours, folder / f"{suite}.svg"))
        for curve in dict.fromkeys(result.case.curve for result in mine if result.case.curve is not None):
            points = [result for result in mine if result.case.curve == curve]
            assert curve is not None
            paths.append(_curves(curve, points, ours, folder / f"{suite}-{points[0].case.operation}.svg"))
        paths += [
            _costs(result, folder / f"{suite}-{result.case.operation}.svg")
            for result in mine
            if result.case.points is not None
        ]
    return paths


def _costs(result: CaseResult, path: Path) -> Path:
    """Microseconds a call, against the size of the store."""
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(6, 3.4))
    assert result.case.points is not None
    for series, colour in zip(dict.fromkeys(name for name, _ in result.case.points.values()), _OURS, strict=False):
        found = [
            (x, rate)
            for entry, (name, x) in result.case.points.items()
            if name == series and (rate := result.figure(entry))
        ]
        axis = [x for x, _ in found]
        panel.plot(axis, [1e6 / rate.median for _, rate in found], marker="o", markersize=3, color=colour, label=series)
        low, high = [1e6 / rate.high for _, rate in found], [1e6 / rate.low for _, rate in found]
        panel.fill_between(axis, low, high, color=colour, alpha=0.15, lw=0)
    panel.set_xscale("log")
    panel.set_ylim(bottom=0)
    panel.set_xlabel(result.case.x_label)
    panel.set_ylabel("us a call")
    panel.grid(alpha=0.25, lw=0.4)
    panel.legend(fontsize=7)
    figure.suptitle(f"{result.case.operation}, {result.case.callers} callers", fontsize=10)
    return _save(figure, path)


def _bars(suite: str, results: Sequence[CaseResult], ours: frozenset[str], path: Path) -> Path:
    """Each operation beside the first contestant: how many times its speed."""
    from matplotlib import pyplot as plt

    heights = [max(1, len(result.samples)) for result in results]
    figure, panels = plt.subplots(
        len(results), 1, figsize=(8, 0.32 * sum(heights) + 0.62 * len(results)), squeeze=False, height_ratios=heights
    )
    for panel, result in zip(panels[:, 0], results, strict=True):
        names = [name for name in result.case.entries if result.samples.get(name)]
        found = [result.figure(name) for name in names]
        values = [figure.median for figure in found if figure is not None]
        low = [figure.median - figure.low for figure in found if figure is not None]
        high = [figure.high - figure.median for figure in found if figure is not None]
        colours = list(_colours(names, ours))
        panel.barh(range(len(names)), values, xerr=[low, high], color=colours, height=0.7, error_kw={"elinewidth": 0.8})
        panel.set_yticks(range(len(names)), names)
        panel.invert_yaxis()
        panel.spines["right"].set_visible(False)
        panel.set_xlim(0, max(value + up for value, up in zip(values, high, strict=True)) * 1.18)
        for position, value in enumerate(values):
            panel.text(value + high[position], position, f" {short(value)}", va="center", fontsize=8)
        better = "" if result.case.better == "higher" else ", less is better"
        callers = "" if result.case.callers == 1 else f", {result.case.callers:,} callers"
        panel.set_title(f"{result.case.title}{callers} ({result.case.unit}{better})", loc="left", fontsize=9)
    return _save(figure, path)


def _curves(title: str, results: Sequence[CaseResult], ours: frozenset[str], path: Path) -> Path:
    """Throughput, and latency where there is one, against callers or size."""
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(name for result in results for name in result.case.entries if result.samples.get(name)))
    with_latency = any(result.figure(name, "p50") for result in results for name in names)
    figure, panels = plt.subplots(1, 2 if with_latency else 1, figsize=(9, 3.4), squeeze=False)
    rate = panels[0, 0]
    for name, colour in zip(names, _colours(names, ours), strict=True):
        points = [(result.case.x or result.case.callers, result) for result in results if result.samples.get(name)]
        axis = [x for x, _ in points]
        found = [result.figure(name) for _, result in points]
        rate.plot(axis, [f.median for f in found if f], marker="o", markersize=3, color=colour, label=name)
        rate.fill_between(
            axis, [f.low for f in found if f], [f.high for f in found if f], color=colour, alpha=0.15, lw=0
        )
        if with_latency:
            for of, style in (("p50", "-"), ("p99", ":")):
                latency = [result.figure(name, of) for _, result in points]
                panels[0, 1].plot(axis, [f.median for f in latency if f], style, color=colour, label=f"{name} {of}")
    for panel in panels[0]:
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel(results[0].case.x_label)
        panel.grid(alpha=0.25, which="both", lw=0.4)
        panel.legend(fontsize=7)
    rate.set_ylabel(results[0].case.unit)
    if with_latency:
        panels[0, 1].set_ylabel("ms")
    figure.suptitle(title, fontsize=10)
    return _save(figure, path)


def _colours(names: Sequence[str], ours: frozenset[str]) -> Iterable[str]:
    mine, others = itertools.cycle(_OURS), itertools.cycle(_THEIRS)
    for name in names:
        yield next(mine if name in ours else others)


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)
    return path
