"""The figures: training curves, and the change of each headline number."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

from ..kit.plots import curve_style, new_figure, to_bytes
from ..kit.training_folder import TrainingRun, common_steps
from .comparison import Comparison
from .comparison_report import CURVES, format_number, row_label
from .run_directories import Arm
from .score_rows import ScoreRow
from .training_comparison import CHANCE, VISTA_TERMS

_POINT_COLOR, _LINE_COLOR, _PUBLISHED_COLOR = (curve_style(index)["color"] for index in (1, 0, 3))
#: A longer log is smoothed to about so many independent points.
_POINTS = 60


def draw_figures(comparison: Comparison, kind: str = "svg") -> dict[str, bytes]:
    """Return the figures that there is something to draw for, by the name of their `Figure` in the report.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figures = {}
    if comparison.trainings:
        figures[CURVES] = _training_figure(comparison, kind)
    for harness in comparison.scores.harnesses():
        rows = comparison.scores.headline_rows(harness)
        if rows:
            figures[harness] = _changes_figure(rows, kind)
    return figures


def _training_figure(comparison: Comparison, kind: str) -> bytes:
    """Draw the cross-entropy of all arms, its difference to the baseline's, and VISTA's terms, over optimizer steps."""
    arms = [arm for arm in comparison.arms if arm.trainings]
    refused = {training.arm for training in comparison.trainings if training.refusals}
    differences = [(at, steps, values) for at, arm in enumerate(arms) if at and arm.name not in refused
                   for steps, values in [_difference(arms[0].trainings, arm.trainings)] if steps]  # fmt: skip
    terms = [key for key in VISTA_TERMS if any(run.series(key)[0] for arm in arms for run in arm.trainings)]
    panels = 1 + bool(differences) + len(terms)
    with new_figure(8.5, 1.2 + 2.3 * panels) as figure:
        axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
        width = _draw_arms(axes[0], arms, "ce_loss")
        smoothed = f" (running mean of {width} records)" if width > 1 else ""
        title = f"NOT A COMPARISON OF VISTA: {', '.join(sorted(refused))}" if refused else f"Training curves{smoothed}"
        axes[0].set_title(title)
        axes[0].set_ylabel("cross-entropy\n(nats per token)")
        for at, steps, values in differences:
            smooth, width = _smooth(values)
            axes[1].axhline(0, color="#888888", linewidth=0.8)
            stride = max(1, width // 4)
            axes[1].plot(steps[::stride], smooth[::stride], linewidth=1.4, **curve_style(at))
            axes[1].set_ylabel("cross-entropy,\nchange to baseline")
        for axis, key in zip(axes[panels - len(terms) :], terms, strict=True):
            _draw_arms(axis, arms, key)
            axis.set_ylabel(_wrapped(VISTA_TERMS[key]))
            if key == "vista_own_first":
                _draw_arm(axis, arms[-1].trainings, CHANCE, "chance", {"color": "#888888", "linestyle": "-"})
                axis.legend()
        axes[-1].set_xlabel("optimizer step")
        return to_bytes(figure, kind)


def _wrapped(label: str) -> str:
    return "\n".join(textwrap.wrap(label, 24))


def _difference(baseline: Sequence[TrainingRun], runs: Sequence[TrainingRun]) -> tuple[list[int], list[float]]:
    """Return the steps that all runs have, and the change of the mean cross-entropy there."""
    steps = common_steps([*baseline, *runs])
    before, after = (_mean_over_runs(arm, "ce_loss", steps) for arm in (baseline, runs))
    return steps, [new - old for old, new in zip(before, after, strict=True)]


def _draw_arms(axis: Any, arms: Sequence[Arm], key: str) -> int:
    """Draw all arms in one panel; a plain baseline has none of VISTA's terms. Returns the width of the mean."""
    widths = [_draw_arm(axis, arm.trainings, key, arm.name, curve_style(at)) for at, arm in enumerate(arms)]
    axis.legend()
    return max(widths)


def _draw_arm(axis: Any, runs: Sequence[TrainingRun], key: str, name: str, style: dict[str, Any]) -> int:
    """Draw the mean over runs, their range as a band, and the unsmoothed records behind. Returns the mean's width."""
    steps = common_steps(runs, key)
    if not steps:
        return 1
    smooth, width = _smooth(_mean_over_runs(runs, key, steps))
    columns = list(zip(*(run.values_at(key, steps) for run in runs), strict=True))
    if len(runs) > 1:
        edges = [_smooth([edge(column) for column in columns])[0] for edge in (min, max)]
        axis.fill_between(steps, *edges, color=style["color"], alpha=0.15, linewidth=0)
        name = f"{name}: mean and range of {len(runs)} runs"
    elif width > 1:
        # as pixels: thousands of points would make the SVG large
        axis.plot(steps, columns, color=style["color"], alpha=0.2, linewidth=0.6, rasterized=True)
    stride = max(1, width // 4)  # a denser line would fill its own dashes
    axis.plot(steps[::stride], smooth[::stride], label=name, linewidth=1.6, **style)
    return width


def _mean_over_runs(runs: Sequence[TrainingRun], key: str, steps: Sequence[int]) -> list[float]:
    return [fmean(values) for values in zip(*(run.values_at(key, steps) for run in runs), strict=True)]


def _smooth(values: Sequence[float]) -> tuple[list[float], int]:
    """Return a running mean, shorter at both ends, and its width in records."""
    width = len(values) // _POINTS if len(values) >= 2 * _POINTS else 1
    sums = [0.0, *accumulate(values)]
    bounds = [(max(0, at - width // 2), min(len(values), at + (width + 1) // 2)) for at in range(len(values))]
    return [(sums[high] - sums[low]) / (high - low) for low, high in bounds], width


def _changes_figure(rows: Sequence[ScoreRow], kind: str) -> bytes:
    """Draw each number's change with its 95% interval and the released changes: a panel for each unit."""
    panels = {unit: [row for row in rows if row.unit == unit] for unit in dict.fromkeys(row.unit for row in rows)}
    keys = list(dict.fromkeys((row.task, row.metric) for row in rows))  # the arms of a task beside each other
    settings = {"axes.grid.axis": "x", "legend.fontsize": 8.5, "ytick.labelsize": 8.5}
    with new_figure(8.5, 0.9 + 0.7 * len(panels) + 0.42 * len(rows), settings) as figure:
        heights = [len(members) + 0.4 for members in panels.values()]
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (unit, members) in zip(axes, panels.items(), strict=True):
            _draw_changes(axis, sorted(members, key=lambda row: keys.index((row.task, row.metric))))
            axis.set_xlabel(f"change with VISTA ({'percentage points' if unit == '%' else unit})")
        axes[0].set_title(rows[0].harness)
        entries = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
        return to_bytes(figure, kind)


def _draw_changes(axis: Any, rows: Sequence[ScoreRow]) -> None:
    axis.axvline(0, color="#888888", linewidth=0.8)
    for at, row in enumerate(rows):
        if row.interval_95:
            bar = {"color": _LINE_COLOR, "marker": "|", "markersize": 8, "linewidth": 1.4}
            axis.plot(row.interval_95, [at, at], label=f"95% interval over {row.noise}", **bar)
        if row.is_significant:
            look, label = "full", "significant (adjusted p < 0.05)"
        else:
            look, label = "none", "not significant" if row.is_significant is False else "not tested"
        dot = {"color": _POINT_COLOR, "markeredgecolor": _LINE_COLOR, "fillstyle": look, "markersize": 7}
        axis.plot(row.change, at, "o" if row.p is not None else "s", label=label, **dot)
        published = row.published or {}
        for name, marker in (("l2", "x"), ("cosine", "+")) if published else ():
            known = published[name] - published["baseline"]
            axis.plot(known, at + 0.28, marker, color=_PUBLISHED_COLOR, markersize=8, label=f"published, {name}")
    several = len({row.arm for row in rows}) > 1
    axis.set_yticks(
        range(len(rows)),
        [f"{row_label(row)}{f', {row.arm}' if several else ''}\n{_from_to(row)}" for row in rows],
    )
    axis.set_ylim(len(rows) - 0.5, -0.5)


def _from_to(row: ScoreRow) -> str:
    before, after = (format_number(fmean(arm), row.unit) for arm in (row.baseline, row.vista))
    unit = "" if row.unit == "as reported" else f" {row.unit}"
    return f"{before} to {after}{unit}{', lower is better' if row.higher_is_better is False else ''}"
