"""The figures, as PNG. Arms are told apart by line style and marker as well as by colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis import BY_KEY, Result, mean_and_interval
from settings import BASELINE, METHODS, TITLES, Run

STYLES: dict[str, dict[str, Any]] = {
    BASELINE: {"color": "#222222", "linestyle": "-", "marker": "o"},
    "l2": {"color": "#d95f02", "linestyle": "--", "marker": "s"},
    "cosine": {"color": "#1b9e77", "linestyle": "-.", "marker": "^"},
    "infonce": {"color": "#7570b3", "linestyle": ":", "marker": "D"},
}
#: Seeds from which on a band is an interval.
ENOUGH = 5
Group = Mapping[str, Sequence[Result]]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    return plt


def _save(plt: Any, figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=95)
    plt.close(figure)


def _around(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and 95% interval; of few values, whose interval would say nothing and hide the rest, their range."""
    mean, low, high = mean_and_interval(values)
    if 1 < len(values) < ENOUGH:
        return mean, min(values), max(values)
    return mean, low, high


def _band(axis: Any, x: Sequence[float], columns: Sequence[Sequence[float]], method: str, label: str) -> None:
    """A mean over seeds with its band at each x; ``columns`` holds the seeds' values at each."""
    middle, low, high = zip(*(_around(column) for column in columns), strict=True)
    style = STYLES[method]
    axis.plot(x, middle, label=label, markersize=4.5, **style)
    if not any(math.isnan(value) for value in low):
        axis.fill_between(x, low, high, color=style["color"], alpha=0.13, linewidth=0)


def _label(results: Sequence[Result]) -> str:
    arm = results[0]["run"]["arm"]
    return str(arm["method"]) if arm["method"] == BASELINE else f"{arm['method']}, weight {arm['weight']:g}"


def by_position(panels: Mapping[str, Group], path: Path) -> None:
    """Visual information and NLL of colours against how far into the caption they come; one column per path.

    Args:
        panels: per path, the results of each method.
    """
    plt = _pyplot()
    rows = (
        ("information_by_mention", "visual information\n(nats per colour word)", 1),
        ("color_nll_by_mention", "NLL of colours\n(nats per colour word)", 1),
    )
    figure, axes = plt.subplots(
        len(rows), len(panels), figsize=(5.2 * len(panels), 6.4), squeeze=False, sharex="col", layout="constrained"
    )
    for column, (name, group) in enumerate(panels.items()):
        for row, (key, title, sign) in enumerate(rows):
            axis = axes[row][column]
            for method, results in group.items():
                captions = [result["measures"]["breaking"]["captions"] for result in results]
                x = captions[0]["position_of_mention"]
                values = [[sign * caption[key][index] for caption in captions] for index in range(len(x))]
                _band(axis, x, values, method, _label(results))
            axis.grid(alpha=0.25)
            axis.set_ylabel(title if column == 0 else "")
            if row == 0:
                seeds = len(next(iter(group.values())))
                axis.set_title(f"{TITLES[name]}, {seeds} seed{'s' * (seeds > 1)}", fontsize=10.5)
        axes[-1][column].set_xlabel("token of the caption at which the colour stands")
    axes[0][0].legend(frameon=False, fontsize=9)
    _save(plt, figure, path)


def by_weight(results: Mapping[Run, Result], baseline: Sequence[float], path: Path) -> None:
    """The criterion of the choice against the weight: validation scenes, every seed a thin line."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6.2, 4.0), layout="constrained")
    criterion = BY_KEY["color_nll"].read
    for method in METHODS:
        seeds = sorted({run.seed for run in results if run.arm.method == method})
        weights = sorted({run.arm.weight for run in results if run.arm.method == method})
        curves = [
            [criterion(result) for run, result in sorted(results.items(), key=lambda item: item[0].arm.weight)
             if run.arm.method == method and run.seed == seed]
            for seed in seeds
        ]  # fmt: skip
        for curve in curves:
            axis.plot(weights, curve, color=STYLES[method]["color"], alpha=0.35, linewidth=0.8)
        axis.plot(weights, [sum(c) / len(c) for c in zip(*curves, strict=True)], label=method, **STYLES[method])
    axis.axhline(sum(baseline) / len(baseline), color="#222222", label=f"{BASELINE} (each seed: thin)")
    for value in baseline:
        axis.axhline(value, color="#222222", alpha=0.35, linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlabel("weight")
    axis.set_ylabel("NLL of colours, prior-breaking\nvalidation scenes (nats)")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=9)
    _save(plt, figure, path)


def by_length(worlds: Sequence[tuple[float, Group]], path: Path) -> None:
    """Measures against the length of captions, and the paired difference from the baseline.

    Args:
        worlds: caption length in tokens with the results of each method, shortest first.
    """
    plt = _pyplot()
    keys = ("information", "color_nll")
    figure, axes = plt.subplots(2, len(keys), figsize=(10.4, 6.8), sharex=True, layout="constrained")
    lengths = [length for length, _ in worlds]
    seeds = ", ".join(str(len(group[BASELINE])) for _, group in worlds)
    for column, key in enumerate(keys):
        measure = BY_KEY[key]
        for method in (BASELINE, *METHODS):
            columns = [[measure.read(result) for result in group[method]] for _, group in worlds]
            _band(axes[0][column], lengths, columns, method, method)
            if method != BASELINE:
                deltas = [
                    [a - measure.read(b) for a, b in zip(values, group[BASELINE], strict=True)]
                    for values, (_, group) in zip(columns, worlds, strict=True)
                ]
                _band(axes[1][column], lengths, deltas, method, method)
        axes[0][column].set_title(measure.title, fontsize=10)
        axes[1][column].axhline(0, color="#222222", linewidth=0.8)
        axes[1][column].set_xlabel(f"tokens of a caption (seeds: {seeds})")
        for row, title in enumerate(("nats", "arm - baseline, nats")):
            axes[row][column].set_ylabel(title)
            axes[row][column].grid(alpha=0.25)
    axes[0][0].legend(frameon=False, fontsize=9)
    _save(plt, figure, path)


def training(panels: Mapping[str, Group], path: Path) -> None:
    """Cross-entropy of stage 2 while training, the mean over seeds, smoothed over five points."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 3.6), squeeze=False, layout="constrained")
    for axis, (name, group) in zip(axes[0], panels.items(), strict=True):
        for method, results in group.items():
            curves = [result["log"]["finetune"]["ce"] for result in results]
            mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
            smooth = [sum(mean[max(0, i - 4) : i + 1]) / len(mean[max(0, i - 4) : i + 1]) for i in range(len(mean))]
            every = results[0]["log_every"]
            style = {key: value for key, value in STYLES[method].items() if key != "marker"}
            axis.plot([every * (i + 1) for i in range(len(smooth))], smooth, label=_label(results), **style)
        axis.set_title(TITLES[name], fontsize=10.5)
        axis.set_xlabel("step of stage 2")
        axis.set_yscale("log")
        axis.set_yticks([0.1, 0.2, 0.5, 1.0], ["0.1", "0.2", "0.5", "1"])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("cross-entropy (nats per token)")
    axes[0][0].legend(frameon=False, fontsize=9)
    _save(plt, figure, path)
