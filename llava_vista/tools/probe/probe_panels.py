"""The figure: every measure of every checkpoint on one page, readable in grey print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

from ..kit.plots import curve_style, new_figure, save
from .probe_table import interval

#: A curve is drawn where at least this share of the samples reaches; the JSON has all of it.
REACHED = 0.1
_NAME_LETTERS, _LEGEND_LETTERS = 48, 150
_ROW_INCHES = 3.7
Items = Sequence[dict[str, Any]]


def draw(record: dict[str, Any], paths: Sequence[Path]) -> None:
    """Draw what ``probe.json`` holds into files; the suffix gives the format.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    items = record["checkpoints"]
    rows = _rows({measure for item in items for measure in PANELS if measure in item})
    labels = [f"{_short(item['name'])} (n = {item['samples']['used']} samples)" for item in items]
    columns = max(1, min(len(items), _LEGEND_LETTERS // (max(len(label) for label in labels) + 10)))
    head = 0.3 + 0.25 * -(-len(items) // columns)  # inches
    with new_figure(14, head + _ROW_INCHES * len(rows), {"axes.titlesize": 10.5, "axes.titleweight": "bold"}) as figure:
        mosaic: list[Any] = [["head"] * 6, *rows]
        axes = figure.subplot_mosaic(mosaic, height_ratios=[head, *[_ROW_INCHES] * len(rows)])
        _draw_legend(axes.pop("head"), labels, columns)
        for panels in PANELS.values():
            for name in panels.keys() & axes:
                _draw_panel(axes[name], panels[name], items)
        save(figure, paths)


def _rows(measured: set[str]) -> list[list[str]]:
    """Return the mosaic's rows, six columns wide, of what was measured."""
    rows = []
    if "information" in measured:
        rows.append(["curve"] * 4 + ["means"] * 2)
    for measures in (("attention", "neighbours"), ("alignment",)):
        panels = [panel for measure in measures if measure in measured for panel in PANELS[measure]]
        if panels:
            rows.append([panel for panel in panels for _ in range(6 // len(panels))])
    return rows


def _short(name: str) -> str:
    half = _NAME_LETTERS // 2
    return name if len(name) <= _NAME_LETTERS else f"{name[: half - 1]}…{name[-half:]}"


def _draw_legend(axis: Any, labels: Sequence[str], columns: int) -> None:
    """Draw one legend for all panels."""
    axis.axis("off")
    for index, label in enumerate(labels):
        axis.plot([], [], label=label, linewidth=2, markersize=6, **curve_style(index, marker=True))
    legend = axis.legend(loc="center", ncol=columns, fontsize=11, handlelength=3.5)
    legend.set_in_layout(False)  # it may be wider than its axes, which must not make the panels narrower


def _draw_line(axis: Any, index: int, curve: dict[str, Any], factor: float) -> None:
    """Draw a curve with its band, where enough samples reach."""
    most = max(curve["n"], default=0)
    enough = min(max(2, REACHED * most), most)
    columns = zip(*(curve[key] for key in ("x", "mean", "low", "high", "n")), strict=True)
    points = [(x, *_bounds(mean, low, high)) for x, mean, low, high, n in columns if mean is not None and n >= enough]
    if not points:
        return
    x = [point[0] for point in points]
    mean, low, high = ([factor * point[column] for point in points] for column in (1, 2, 3))
    style, every = curve_style(index, marker=True), max(1, len(x) // 12)
    axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    marks = ((index * every // 3) % every, every)  # markers of several curves do not cover each other
    axis.plot(x, mean, linewidth=1.6, markersize=4.5, markevery=marks, **style)


def _bounds(value: float, low: float | None, high: float | None) -> tuple[float, float, float]:
    """Return value, low and high; a bound that is undefined is the value."""
    return value, value if low is None else low, value if high is None else high


class Panel(NamedTuple):
    """One panel: a curve of each checkpoint over positions or layers, and what else is drawn.

    Attributes:
        curve: the keys of the curve in a checkpoint's record.
        finish: draws the rest, given the axis and all records.
    """

    title: str
    xlabel: str
    ylabel: str = ""
    curve: tuple[str, ...] = ()
    factor: float = 1.0
    finish: Callable[[Any, Items], None] = lambda axis, items: None


def _draw_panel(axis: Any, panel: Panel, items: Items) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    for index, item in enumerate(items if panel.curve else ()):
        _draw_line(axis, index, reduce(getitem, panel.curve, item), panel.factor)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.finish(axis, items)


def _finish_information(axis: Any, items: Items) -> None:
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_title(f"{axis.get_title()}\nno image = {items[0]['information']['no_image']}")
    bottom, top = axis.get_ylim()
    lines = -(-len(items) // 2)
    axis.set_ylim(bottom, top + (top - bottom) * 0.09 * lines)  # the legend has room above the curves
    for index, item in enumerate(items):
        slope = interval(item["information"]["slope"], digits=2, factor=100)
        axis.plot([], [], label=f"slope {slope} nats per 100 positions", **curve_style(index, marker=True))
    axis.legend(loc="upper center", ncol=2, fontsize=9, handlelength=3.5)


_MEANS = {"mean": "all answer\ntokens", "mean_on_visual_words": "marked\nvisual", "mean_on_other_words": "others"}


def _finish_means(axis: Any, items: Items) -> None:
    kinds = [kind for kind in _MEANS if any(item["information"][kind] for item in items)]
    for row, kind in enumerate(kinds):
        for index, item in enumerate(items):
            estimate = item["information"][kind]
            if estimate is None or estimate["value"] is None:
                continue
            value, low, high = _bounds(*(estimate[name] for name in ("value", "low", "high")))
            at = -row + 0.5 * ((len(items) - 1) / 2 - index) / max(1, len(items) - 1)
            style = {**curve_style(index, marker=True), "linestyle": "none"}
            # percentile bounds need not enclose the value where they are close to it
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axis.errorbar([value], [at], xerr=error, markersize=6, capsize=4, elinewidth=1.6, **style)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([-row for row in range(len(kinds))], [_MEANS[kind] for kind in kinds])
    axis.set_ylim(-len(kinds) + 0.4, 0.6)


def _finish_attention(axis: Any, items: Items) -> None:
    axis.set_ylim(bottom=0)
    sizes = {item["attention"]["image_tokens"][bound] for item in items for bound in ("min", "max")}
    if len(sizes) == 1:  # a second scale, where all images have the same number of tokens
        size = sizes.pop()
        second = axis.secondary_yaxis("right", functions=(lambda y: y / size, lambda y: y * size))
        second.set_ylabel(f"% per image token (of {size})", labelpad=8)


def _finish_neighbours(axis: Any, items: Items) -> None:
    keys = {"mean": "value", "low": "low", "high": "high", "n": "n"}
    measured = [item["neighbours"] for item in items if item["neighbours"]["by_depth"]]
    for index, part in enumerate(item["neighbours"] for item in items):
        curve = {key: [point[name] for point in part["by_depth"]] for key, name in keys.items()}
        _draw_line(axis, index, {"x": part["depth"][: len(part["by_depth"])], **curve}, factor=1)
    kind = "too few images"
    if measured:
        longest = max(measured, key=lambda part: max(part["depth"]))
        bounds = [[point["null"][bound] for point in longest["by_depth"]] for bound in ("low", "high")]
        axis.fill_between(longest["depth"], *bounds, color="0.5", alpha=0.35, hatch="////", label="by chance, 95%")
        axis.legend(fontsize=9)
        axis.set_xticks(longest["depth"])
        kind = f"mutual {longest['k']}-NN of {longest['images']} images"
    axis.set_title(f"Neighbours shared with vision tower\n{kind}")
    axis.set_ylim(bottom=0)


_ANSWER = f"answer token t (band: 95%, samples resampled; where ≥ {REACHED:.0%} of the samples reach)"
_LAYER, _TEXT = "decoder layer (mean over text after the image)", "text token t (mean over layers)"
_TARGET = "VISTA's training target, not evidence"
_INFORMATION = "Visual information by answer position: log p(y | image) - log p(y | no image)"
_WEIGHT = "Weight that VISTA puts there\n(t/m)/m, mean over samples"
_BY_LAYER, _BY_POSITION = (("attention", name, "total") for name in ("by_layer", "by_position"))
#: The panels of each measure by name.
PANELS = {
    "information": {
        "curve": Panel(
            _INFORMATION,
            _ANSWER,
            "visual information (nats per token)",
            ("information", "curve"),
            finish=_finish_information,
        ),
        "means": Panel("Mean visual information", "nats per token (bars: 95%)", finish=_finish_means),
    },
    "attention": {
        "by_layer": Panel(
            "Attention on the image by layer", _LAYER, "% of attention", _BY_LAYER, 100, _finish_attention
        ),
        "by_position": Panel(
            "Attention on the image by text position", _TEXT, "% of attention", _BY_POSITION, 100, _finish_attention
        ),
    },
    "neighbours": {
        "neighbours": Panel(
            "", "after decoder layer (0: its input)", "share of neighbours in common", finish=_finish_neighbours
        )
    },
    "alignment": {
        name: Panel(title, "text token t", unit, ("alignment", name, "curve"))
        for name, title, unit in (
            ("cosine", f"Alignment, cosine\n({_TARGET})", "cos(S$_n$, x$_t$)"),
            ("l2", f"Alignment, l2\n({_TARGET})", "$-$mean (S$_n$ $-$ x$_t$)$^2$"),
            ("weight", _WEIGHT, "weight"),
        )
    },
}
