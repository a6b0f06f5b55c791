"""The figures of a comparison: one page of all panels and each panel alone, readable in grey print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy

from ..kit.plots import add_legend, curve_style, new_figure, save

#: A curve is drawn where at least this share of the samples reaches; the JSON has all of it.
REACHED = 0.1
_COLUMNS = 3
_XLABELS = {
    "": "",
    "position": "token, bins up to (band: 95%)",
    "layer": "decoder layer",
    "depth": "after decoder layer (0: its input)",
}
Result = dict[str, Any]
#: x, and the estimate there
Point = tuple[int, dict[str, Any]]


class Panel(NamedTuple):
    """One panel. It is left out where no record has estimates of it.

    along: its x: "position", "layer" or "depth"; "" for one value of each record.
    """

    name: str
    title: str
    ylabel: str
    key: str
    along: str = ""


_NATS, _TARGET = "nats per token", "VISTA's training target, not evidence"
PANELS = (
    Panel("information", "Information of the image", _NATS, "information", "position"),
    Panel("difference", "The same less the first, paired", _NATS, "information", "position"),
    Panel("margin", "Margin of the own text", "I(own) - mean I(others)", "margin"),
    Panel("own-first", "Own text ranked first (dotted: chance)", "share", "own_first"),
    Panel("attention", "Attention on the image", "share", "attention", "position"),
    Panel("attention-by-layer", "The same by layer", "share", "attention_by_layer", "layer"),
    Panel("neighbours", "Neighbours shared with the vision tower", "share", "by_depth", "depth"),
    Panel("cosine", f"Text and image state\n({_TARGET})", "cosine", "cosine", "position"),
)


def _points(panel: Panel, result: Result, index: int) -> list[Point]:
    """Return the points of the record with this number; nothing where it has none."""
    item = result["records"][index]
    if panel.name == "difference":
        item = item.get("difference") or {}
    if not panel.along:
        return [(index, item[panel.key])] if panel.key in item else []
    source = (item.get("neighbours") if panel.along == "depth" else item.get("curves")) or {}
    estimates = source.get(panel.key) or []
    xs = {"position": result["bin_ends"], "layer": range(1, len(estimates) + 1), "depth": range(len(estimates))}
    return list(zip(xs[panel.along], estimates, strict=False))


def _draw(axis: Any, panel: Panel, result: Result, curves: Sequence[list[Point]]) -> None:
    """Draw each record's points with their intervals, and what they are to be compared with: zero, or chance."""
    ticks: set[int] = set()
    for index, points in enumerate(curves):
        most = max((one["n"] for _, one in points), default=0)
        enough = max(min(2, most), REACHED * most)
        points = [(x, one) for x, one in points if one["value"] is not None and one["n"] >= enough]
        if not points:
            continue
        x = [at for at, _ in points]
        bounds = [[one[key] for key in ("value", "low", "high")] for _, one in points]
        value, low, high = numpy.array(bounds, dtype=float).T
        # Bounds may be undefined, and percentiles need not enclose a value that is close to them.
        low, high = numpy.fmin(low, value), numpy.fmax(high, value)
        style = {"label": result["records"][index]["name"], **curve_style(index, marker=True)}
        if panel.along:
            axis.plot(x, value, markersize=4.5, **style)
            axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
            ticks |= set(x)
        else:
            around = numpy.stack([value - low, high - value])
            axis.errorbar(x, value, yerr=around, capsize=4, **{**style, "linestyle": "none"})
    axis.set(title=panel.title, ylabel=panel.ylabel, xlabel=_XLABELS[panel.along])
    if panel.along == "position":
        axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(ticks), list(map(str, sorted(ticks))))
    if panel.along == "depth":
        null = [one["null"] for _, one in next(filter(None, curves))]
        low, high = ([one[bound] for one in null] for bound in ("low", "high"))
        axis.fill_between(range(len(null)), low, high, color="0.5", alpha=0.35, hatch="////", label="by chance, 95%")
    if panel.along in ("layer", "depth"):
        axis.set_ylim(0, None)
    else:
        axis.axhline(0, color="black", linewidth=0.8)
    chances = [item["chance"]["value"] for item in result["records"] if panel.key == "own_first" and "chance" in item]
    if known := [chance for chance in chances if chance is not None]:
        axis.axhline(fmean(known), color="black", linewidth=0.8, linestyle=":")


def draw_comparison(result: Result, folder: Path) -> list[Path]:
    """Draw all panels into one figure and each into its own, as PNG and PDF; return the files."""
    records = range(len(result["records"]))
    everything = [(panel, [_points(panel, result, index) for index in records]) for panel in PANELS]
    present = [(panel, curves) for panel, curves in everything if any(curves)]
    written: list[Path] = []
    for name, panels in (("", present), *((f"-{one[0].name}", [one]) for one in present)):
        files = [folder / f"probe{name}.{kind}" for kind in ("png", "pdf")]
        columns = min(_COLUMNS, len(panels))
        rows = -(-len(panels) // columns)
        with new_figure(4.7 * columns, 3.9 * rows) as figure:
            axes = figure.subplots(rows, columns, squeeze=False).flatten()
            for axis, (panel, curves) in zip(axes, panels, strict=False):
                _draw(axis, panel, result, curves)
            for axis in axes[len(panels) :]:
                axis.axis("off")
            add_legend(figure, axes)
            save(figure, files)
        written += files
    return written
