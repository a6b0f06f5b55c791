"""The figure: every measure of every checkpoint on one page, readable in grey print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

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
        draw_panel = {name: panel for panels in PANELS.values() for name, panel in panels.items()}
        for name, axis in axes.items():
            draw_panel[name](axis, items)
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


def _draw_line(axis: Any, index: int, curve: dict[str, Any], label: str | None = None, factor: float = 1.0) -> None:
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
    axis.plot(x, mean, label=label, linewidth=1.6, markersize=4.5, markevery=marks, **style)


def _bounds(value: float, low: float | None, high: float | None) -> tuple[float, float, float]:
    """Return value, low and high; a bound that is undefined is the value."""
    return value, value if low is None else low, value if high is None else high


def _label(axis: Any, title: str, xlabel: str, ylabel: str) -> None:
    """Label a panel over positions or layers, which are whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_information(axis: Any, items: Items) -> None:
    for index, item in enumerate(items):
        part = item["information"]
        slope = interval(part["slope"], digits=2, factor=100)
        _draw_line(axis, index, part["curve"], f"slope {slope} nats per 100 positions")
    axis.axhline(0, color="black", linewidth=0.8)
    _label(
        axis,
        "Visual information by answer position: log p(y | image) - log p(y | no image)\n"
        f"no image = {items[0]['information']['no_image']}",
        f"answer token t (band: 95%, samples resampled; where ≥ {REACHED:.0%} of the samples reach)",
        "visual information (nats per token)",
    )
    bottom, top = axis.get_ylim()
    lines = -(-len(items) // 2)
    axis.set_ylim(bottom, top + (top - bottom) * 0.09 * lines)  # the legend has room above the curves
    axis.legend(loc="upper center", ncol=2, fontsize=9, handlelength=3.5)


_MEANS = {"mean": "all answer\ntokens", "mean_on_visual_words": "marked\nvisual", "mean_on_other_words": "others"}


def _draw_means(axis: Any, items: Items) -> None:
    kinds = [kind for kind in _MEANS if any(item["information"][kind] for item in items)]
    for row, kind in enumerate(kinds):
        for index, item in enumerate(items):
            estimate = item["information"][kind]
            if estimate is None or estimate["value"] is None:
                continue
            value, low, high = _bounds(*(estimate[name] for name in ("value", "low", "high")))
            at = -row + 0.5 * ((len(items) - 1) / 2 - index) / max(1, len(items) - 1)
            style = curve_style(index, marker=True)
            del style["linestyle"]
            # percentile bounds need not enclose the value where they are close to it
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axis.errorbar([value], [at], xerr=error, markersize=6, capsize=4, linewidth=1.6, **style)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([-row for row in range(len(kinds))], [_MEANS[kind] for kind in kinds])
    axis.set_ylim(-len(kinds) + 0.4, 0.6)
    axis.set(title="Mean visual information", xlabel="nats per token (bars: 95%)")


def _attention_panel(name: str, title: str, xlabel: str) -> Callable[[Any, Items], None]:
    def panel(axis: Any, items: Items) -> None:
        for index, item in enumerate(items):
            _draw_line(axis, index, item["attention"][name]["total"], factor=100)
        _label(axis, title, xlabel, "% of attention")
        axis.set_ylim(bottom=0)
        sizes = {item["attention"]["image_tokens"][bound] for item in items for bound in ("min", "max")}
        if len(sizes) == 1:  # a second scale, where all images have the same number of tokens
            size = sizes.pop()
            second = axis.secondary_yaxis("right", functions=(lambda y: y / size, lambda y: y * size))
            second.set_ylabel(f"% per image token (of {size})", labelpad=8)

    return panel


def _draw_neighbours(axis: Any, items: Items) -> None:
    for index, item in enumerate(items):
        points = item["neighbours"]["by_depth"]
        keys = {"mean": "value", "low": "low", "high": "high", "n": "n"}
        curve = {key: [point[name] for point in points] for key, name in keys.items()}
        _draw_line(axis, index, {**curve, "x": item["neighbours"]["depth"][: len(points)]})
    measured = [item["neighbours"] for item in items if item["neighbours"]["by_depth"]]
    title = "Neighbourhood agreement: too few images"
    if measured:
        longest = max(measured, key=lambda part: max(part["depth"]))
        bounds = [[point["null"][bound] for point in longest["by_depth"]] for bound in ("low", "high")]
        axis.fill_between(longest["depth"], *bounds, color="0.5", alpha=0.35, hatch="////", label="by chance, 95%")
        axis.legend(fontsize=9)
        title = f"Neighbours shared with vision tower\nmutual {longest['k']}-NN of {longest['images']} images"
    _label(axis, title, "after decoder layer (0: its input)", "share of neighbours in common")
    axis.set_ylim(bottom=0)


def _alignment_panel(name: str, title: str, ylabel: str) -> Callable[[Any, Items], None]:
    def panel(axis: Any, items: Items) -> None:
        for index, item in enumerate(items):
            _draw_line(axis, index, item["alignment"][name]["curve"])
        _label(axis, title, "text token t", ylabel)

    return panel


_TARGET = "VISTA's training target, not evidence"
#: The panels of each measure by name.
PANELS: dict[str, dict[str, Callable[[Any, Items], None]]] = {
    "information": {"curve": _draw_information, "means": _draw_means},
    "attention": {
        "by_layer": _attention_panel(
            "by_layer", "Attention on the image by layer", "decoder layer (mean over text after the image)"
        ),
        "by_position": _attention_panel(
            "by_position", "Attention on the image by text position", "text token t (mean over layers)"
        ),
    },
    "neighbours": {"neighbours": _draw_neighbours},
    "alignment": {
        "cosine": _alignment_panel("cosine", f"Alignment, cosine\n({_TARGET})", "cos(S$_n$, x$_t$)"),
        "l2": _alignment_panel("l2", f"Alignment, l2\n({_TARGET})", "$-$mean (S$_n$ $-$ x$_t$)$^2$"),
        "weight": _alignment_panel("weight", "Weight that VISTA puts there\n(t/m)/m, mean over samples", "weight"),
    },
}
