"""The two figures, as SVG. Only here is matplotlib imported; it is the extra ``llava-vista[plots]``."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from .curves import VISTA_KEYS, TrainingComparison
from .document import label, number
from .rows import QUESTIONS, Row
from .training import TrainingRun, common_steps, values_at

# Told apart by the line as well as by the colour, so that a grey print can be read.
_BASELINE = {"color": "#222222", "linestyle": "-"}
_VISTA = {"color": "#d95f02", "linestyle": "--"}
#: A longer log is smoothed to about so many independent points.
_POINTS = 60


def _pyplot() -> Any:
    """matplotlib without a display, with text as shapes and without dates, so that a figure is the same everywhere.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "llava-vista", "font.size": 10})
    return plt


def _draw(plt: Any, figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None)
    plt.close(figure)
    return buffer.getvalue()


def _smooth(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], int]:
    """A running mean, shorter at both ends, and its width in records."""
    width = max(1, len(values) // _POINTS) if len(values) >= 2 * _POINTS else 1
    sums = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(len(values))
    low, high = np.maximum(0, index - width // 2), np.minimum(len(values), index + (width + 1) // 2)
    return (sums[high] - sums[low]) / (high - low), width


def _curve(axis: Any, runs: Sequence[TrainingRun], key: str, name: str, style: dict[str, str]) -> int:
    """One arm's curve: mean over runs, their range as a band, and the unsmoothed records behind. Returns the width."""
    steps = common_steps(runs, key)
    if not steps:
        return 1
    table = np.array([values_at(run, key, steps) for run in runs])  # (runs, records)
    smooth, width = _smooth(table.mean(axis=0))
    if len(runs) > 1:
        lows, highs = (_smooth(edge)[0] for edge in (table.min(axis=0), table.max(axis=0)))
        axis.fill_between(steps, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
        name = f"{name}: mean and range of {len(runs)} runs"
    elif width > 1:
        # as pixels: thousands of points would make the SVG large
        axis.plot(steps, table[0], color=style["color"], alpha=0.2, linewidth=0.6, rasterized=True)
    stride = max(1, width // 4)  # a denser line would fill its own dashes
    axis.plot(steps[::stride], smooth[::stride], label=name, linewidth=1.6, **style)
    return width


def training_figure(training: TrainingComparison, kind: str = "svg") -> bytes:
    """Cross-entropy of both arms, their difference, and VISTA's own terms, over optimizer steps."""
    plt = _pyplot()
    runs = [*training.baseline, *training.vista]
    steps = [] if training.refusals else common_steps(runs)
    terms = [key for key in VISTA_KEYS if any(run.series(key)[0] for run in runs)]
    panels = 1 + bool(steps) + len(terms)
    figure, axes = plt.subplots(
        panels, 1, figsize=(8.5, 1.2 + 2.3 * panels), sharex=True, constrained_layout=True, squeeze=False
    )
    column = list(axes[:, 0])
    axis = column.pop(0)
    width = _both(axis, training, "ce_loss")
    smoothed = f" (running mean of {width} records)" if width > 1 else ""
    axis.set_title("NOT A COMPARISON OF VISTA" if training.refusals else f"Training curves{smoothed}")
    axis.set_ylabel("cross-entropy\n(nats per token)")
    if steps:
        axis = column.pop(0)
        arms = [
            np.array([values_at(run, "ce_loss", steps) for run in arm]).mean(axis=0)
            for arm in (training.baseline, training.vista)
        ]
        axis.axhline(0, color="#888888", linewidth=0.8)
        difference, width = _smooth(arms[1] - arms[0])
        stride = max(1, width // 4)
        axis.plot(steps[::stride], difference[::stride], color="#222222", linewidth=1.4)
        axis.set_ylabel("cross-entropy,\nVISTA - baseline")
    for axis, key in zip(column, terms, strict=True):
        _both(axis, training, key)
        axis.set_ylabel(VISTA_KEYS[key])
    for axis in axes[:, 0]:
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("optimizer step")
    return _draw(plt, figure, kind)


def _both(axis: Any, training: TrainingComparison, key: str) -> int:
    """Both arms' curves in one panel; a plain baseline has none of VISTA's terms. Returns the width of the mean."""
    widths = [
        _curve(axis, runs, key, name, style)
        for name, runs, style in (("baseline", training.baseline, _BASELINE), ("VISTA", training.vista, _VISTA))
    ]
    axis.legend(frameon=False)
    return max(widths)


def changes_figure(rows: Sequence[Row], kind: str = "svg") -> bytes:
    """Each headline number's change relative to the baseline, its 95% interval, and the released changes beside it."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(8.5, 1.6 + 0.42 * len(rows)), constrained_layout=True)
    released: dict[str, list[tuple[float, float]]] = {"l2": [], "cosine": []}
    for position, row in enumerate(rows):
        base = sum(row.baseline) / len(row.baseline)
        scale = 100 / abs(base) if base else 0.0
        center = row.change * scale
        if row.interval:
            ends = [scale * end for end in row.interval]
            axis.plot(ends, [position, position], color="#222222", linewidth=1.4, solid_capstyle="butt")
            axis.plot(ends, [position, position], "|", color="#222222", markersize=8)
        filled = bool(row.stands_out)
        axis.plot(center, position, "o", color="#d95f02", markeredgecolor="#222222", markersize=7,
                  fillstyle="full" if filled else "none")  # fmt: skip
        if row.published:
            for name, points in released.items():
                known = row.published["baseline"]
                points.append((100 * (row.published[name] - known) / known, position + 0.28))  # below
    for (name, points), marker in zip(released.items(), ("x", "+"), strict=True):
        if points:
            axis.plot(*zip(*points, strict=True), marker, color="#7570b3", markersize=8, label=f"published, {name}")
    axis.axvline(0, color="#888888", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [f"{label(row)}\n{_from_to(row)}" for row in rows], fontsize=8.5)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(f"change with VISTA, relative to the baseline (%)\n{rows[0].harness}")
    noise = "questions" if any(row.noise == QUESTIONS for row in rows) else "seeds"
    axis.plot([], [], "o", color="#d95f02", markeredgecolor="#222222", label="stands out (p < 0.05)")
    axis.plot([], [], "o", color="#d95f02", markeredgecolor="#222222", fillstyle="none", label="does not, or not known")
    if any(row.interval for row in rows):
        axis.plot([], [], "-", color="#222222", label=f"95% interval over {noise}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    axis.grid(axis="x", alpha=0.3)
    return _draw(plt, figure, kind)


def _from_to(row: Row) -> str:
    arms = [number(sum(arm) / len(arm), row.unit) for arm in (row.baseline, row.vista)]
    down = ", lower is better" if row.higher_is_better is False else ""
    unit = "" if row.unit == "as reported" else f" {row.unit}"
    return f"{arms[0]} to {arms[1]}{unit}{down}"
