"""The figures: training curves, and the change of each headline number."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from ..kit.plots import add_legend, curve_style, new_figure, to_bytes
from ..kit.training_folder import Runs, common_steps
from .comparison import Arm, Comparison
from .comparison_report import CURVES, format_number, row_label
from .score_rows import ScoreRow
from .training_comparison import CHANCE, VISTA_TERMS

_POINT_COLOR, _LINE_COLOR, _PUBLISHED_COLOR = (curve_style(index)["color"] for index in (1, 0, 3))
_GREY = "#888888"
#: A longer log is smoothed to about so many independent points.
_POINTS = 60


def draw_figures(comparison: Comparison, kind: str = "svg") -> dict[str, bytes]:
    """Return the figures that there is something to draw for, by the name of their `Figure` in the report."""
    figures = {CURVES: _training_figure(comparison, kind)} if comparison.trainings else {}
    for harness in comparison.scores.harnesses():
        if rows := comparison.scores.headline_rows(harness):
            figures[harness] = _changes_figure(rows, kind)
    return figures


def _training_figure(comparison: Comparison, kind: str) -> bytes:
    """Draw the cross-entropy of all arms, its difference to the baseline's, and VISTA's terms, over optimizer steps."""
    arms = [arm for arm in comparison.arms if arm.trainings]
    refused = [training.arm for training in comparison.trainings if training.refusals]
    steps = {
        arm.name: common_steps([*arms[0].trainings, *arm.trainings]) for arm in arms[1:] if arm.name not in refused
    }
    logged = [key for key in VISTA_TERMS if any(run.series(key)[0] for arm in arms for run in arm.trainings)]
    terms = [key for key in logged if key != CHANCE]
    panels = 1 + any(steps.values()) + len(terms)
    columns = 1 if panels < 3 else 2
    rows = -(-panels // columns)
    with new_figure(5 * columns, 1 + 2.3 * rows) as figure:
        axes = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)
        _draw_arms(axes[0], arms, "ce_loss", "cross-entropy (nats per token)")
        width = max(_width(common_steps(arm.trainings)) for arm in arms)
        smoothed = f" (running mean of {width} records)" if width > 1 else ""
        counts = {len(arm.trainings) for arm in arms}
        band = f"; mean and range of {max(counts)} runs" if counts != {1} else ""
        title = f"NOT A COMPARISON OF VISTA: {', '.join(refused)}" if refused else "Training curves"
        figure.suptitle(f"{title}{smoothed}{band}", fontsize=11)
        for at, arm in enumerate(arms):
            if shared := steps.get(arm.name):
                before, after = (_values(of.trainings, "ce_loss", shared).mean(axis=0) for of in (arms[0], arm))
                axes[1].axhline(0, color=_GREY, linewidth=0.8)
                _draw_line(axes[1], shared, after - before, linewidth=1.4, **curve_style(at))
                axes[1].set_title("cross-entropy, change to the baseline")
        for axis, key in zip(axes[panels - len(terms) :], terms, strict=False):
            _draw_arms(axis, arms, key, VISTA_TERMS[key])
            if key == "vista_own_first":
                axis.plot(*arms[-1].trainings[0].series(CHANCE), color=_GREY, linewidth=1, label="chance")
        for axis in axes[panels:]:
            axis.remove()
        for axis in axes[max(0, panels - columns) : panels]:
            axis.set_xlabel("optimizer step")
            axis.tick_params(labelbottom=True)
        add_legend(figure, axes[:panels])
        return to_bytes(figure, kind)


def _draw_arms(axis: Any, arms: Sequence[Arm], key: str, title: str) -> None:
    """Draw each arm's mean over runs, and their range as a band or the unsmoothed records behind."""
    for at, arm in enumerate(arms):
        if steps := common_steps(arm.trainings, key):  # a plain baseline has none of VISTA's terms
            style = curve_style(at)
            values = _values(arm.trainings, key, steps)
            if len(values) > 1:
                low, high = _smooth(values.min(axis=0)), _smooth(values.max(axis=0))
                axis.fill_between(steps, low, high, color=style["color"], alpha=0.15, linewidth=0)
            elif _width(steps) > 1:
                # as pixels: thousands of points would make the SVG large
                axis.plot(steps, values[0], color=style["color"], alpha=0.2, linewidth=0.6, rasterized=True)
            _draw_line(axis, steps, values.mean(axis=0), label=arm.name, linewidth=1.6, **style)
    axis.set_title(title)


def _draw_line(axis: Any, steps: Sequence[int], values: Any, **style: Any) -> None:
    stride = max(1, _width(steps) // 4)  # a denser line would fill its own dashes
    axis.plot(steps[::stride], _smooth(values)[::stride], **style)


def _values(runs: Runs, key: str, steps: Sequence[int]) -> Any:
    """Return a series of all runs, (runs, steps)."""
    import numpy as np

    return np.array([run.values_at(key, steps) for run in runs])


def _smooth(values: Any) -> Any:
    """Return a running mean, shorter at both ends."""
    import numpy as np

    window = np.ones(_width(values))
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def _width(values: Sequence[Any]) -> int:
    """Return over how many records a curve of so many is smoothed."""
    return len(values) // _POINTS if len(values) >= 2 * _POINTS else 1


def _changes_figure(rows: Sequence[ScoreRow], kind: str) -> bytes:
    """Draw each number's change with its 95% interval and the released changes: a panel for each unit."""
    panels = {unit: [row for row in rows if row.unit == unit] for unit in dict.fromkeys(row.unit for row in rows)}
    settings = {"axes.grid.axis": "x", "legend.fontsize": 8.5, "ytick.labelsize": 8.5}
    with new_figure(8.5, 0.9 + 0.7 * len(panels) + 0.42 * len(rows), settings) as figure:
        heights = [len(members) + 0.4 for members in panels.values()]
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (unit, members) in zip(axes, panels.items(), strict=True):
            _draw_changes(axis, members)
            axis.set_xlabel(f"change with VISTA ({'percentage points' if unit == '%' else unit})")
        axes[0].set_title(rows[0].harness)
        add_legend(figure, axes)
        return to_bytes(figure, kind)


def _draw_changes(axis: Any, rows: Sequence[ScoreRow]) -> None:
    several = len({row.arm for row in rows}) > 1
    labels = []
    axis.axvline(0, color=_GREY, linewidth=0.8)
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
        before, after = (format_number(fmean(arm), row.unit) for arm in (row.baseline, row.vista))
        unit = "" if row.unit == "as reported" else f" {row.unit}"
        lower = ", lower is better" if row.higher_is_better is False else ""
        arm = f", {row.arm}" if several else ""
        labels.append(f"{row_label(row)}{arm}\n{before} to {after}{unit}{lower}")
    axis.set_yticks(range(len(rows)), labels)
    axis.set_ylim(len(rows) - 0.5, -0.5)
