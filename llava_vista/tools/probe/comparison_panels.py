"""The figures of a comparison: one page of all panels and each panel alone, readable in grey print."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy

from ..kit.plots import add_legend, curve_style, new_figure, save

#: A curve is drawn where at least this share of the samples reaches; the JSON has all of it.
REACHED = 0.1
_COLUMNS = 3
Result = dict[str, Any]


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


def _points(panel: Panel, result: Result, index: int) -> list[tuple[int, dict[str, Any]]]:
    """Return x and estimate of each point of the record with this number; nothing where it has none."""
    item = result["records"][index]
    if panel.name == "difference":
        item = item.get("difference") or {}
    if not panel.along:
        return [(index, item[panel.key])] if panel.key in item else []
    source = (item.get("neighbours") if panel.along == "depth" else item.get("curves")) or {}
    estimates = source.get(panel.key) or []
    xs = {"position": result["bin_ends"], "layer": range(1, len(estimates) + 1), "depth": range(len(estimates))}
    return list(zip(xs[panel.along], estimates, strict=False))


def _draw(axis: Any, panel: Panel, result: Result) -> None:
    drawn: set[int] = set()
    for index, item in enumerate(result["records"]):
        points = _points(panel, result, index)
        most = max((one["n"] for _, one in points), default=0)
        enough = max(min(2, most), REACHED * most)
        points = [(x, one) for x, one in points if one["value"] is not None and one["n"] >= enough]
        if not points:
            continue
        x = [at for at, _ in points]
        bounds = [[one["value"] if one[key] is None else one[key] for key in ("value", "low", "high")]
                  for _, one in points]  # fmt: skip
        value, low, high = numpy.transpose(bounds)
        # Percentile bounds need not enclose the value where they are close to it.
        low, high = numpy.minimum(low, value), numpy.maximum(high, value)
        style = {"label": item["name"], **curve_style(index, marker=True)}
        if panel.along:
            axis.plot(x, value, markersize=4.5, **style)
            axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
        else:
            axis.errorbar(
                x, value, yerr=numpy.stack([value - low, high - value]), capsize=4, **{**style, "linestyle": "none"}
            )
        drawn |= set(x)
    axis.set(title=panel.title, ylabel=panel.ylabel)
    _draw_scale(axis, panel, result, sorted(drawn))


def _draw_scale(axis: Any, panel: Panel, result: Result, drawn: list[int]) -> None:
    """Label the x axis, and draw what the values are to be compared with: zero, or chance."""
    if panel.along in ("", "position"):
        axis.axhline(0, color="black", linewidth=0.8)
    if panel.along == "position":
        axis.set_xscale("log", base=2)
        axis.set_xticks(drawn, list(map(str, drawn)))
        axis.set_xlabel("token, bins up to (band: 95%)")
        return
    axis.set_xticks(drawn if panel.along else [])
    if panel.along == "layer":
        axis.set(xlabel="decoder layer", ylim=(0, None))
    elif panel.along == "depth":
        null = next(points for index in range(len(result["records"])) if (points := _points(panel, result, index)))
        bounds = [[one["null"][bound] for _, one in null] for bound in ("low", "high")]
        axis.fill_between(range(len(null)), *bounds, color="0.5", alpha=0.35, hatch="////", label="by chance, 95%")
        axis.set(xlabel="after decoder layer (0: its input)", ylim=(0, None))
    elif panel.key == "own_first":
        chances = [item["chance"]["value"] for item in result["records"] if item["chance"]["value"] is not None]
        if chances:
            axis.axhline(sum(chances) / len(chances), color="black", linewidth=0.8, linestyle=":")


def draw_comparison(result: Result, folder: Path) -> list[Path]:
    """Draw all panels into one figure and each into its own, as PNG and PDF; return the files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    records = range(len(result["records"]))
    present = [panel for panel in PANELS if any(_points(panel, result, index) for index in records)]
    written: list[Path] = []
    for name, panels in (("", present), *((f"-{panel.name}", [panel]) for panel in present)):
        files = [folder / f"probe{name}.{kind}" for kind in ("png", "pdf")]
        columns = min(_COLUMNS, len(panels))
        rows = -(-len(panels) // columns)
        with new_figure(4.7 * columns, 3.9 * rows) as figure:
            axes = figure.subplots(rows, columns, squeeze=False).flatten()
            for axis, panel in zip(axes, panels, strict=False):
                _draw(axis, panel, result)
            for axis in axes[len(panels) :]:
                axis.axis("off")
            add_legend(figure, axes)
            save(figure, files)
        written += files
    return written
