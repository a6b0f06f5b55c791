"""The figures of a comparison: one page of all panels and each panel alone, readable in grey print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..kit.plots import add_legend, curve_style, new_figure, save

#: A curve is drawn where at least this share of the samples reaches; the JSON has all of it.
REACHED = 0.1
_COLUMNS = 3
Result = dict[str, Any]
#: Reads a panel's estimates from a record of ``comparison.json``; nothing where it has none.
Read = Callable[[dict[str, Any]], Any]


def _curve(key: str) -> Read:
    return lambda item: item.get("curves", {}).get(key)


def _one(key: str) -> Read:
    return lambda item: [item[key]] if key in item else None


def _by_depth(item: dict[str, Any]) -> Any:
    return (item.get("neighbours") or {}).get("by_depth")


class Panel(NamedTuple):
    """One panel.

    draw: given the axis, the result and ``read``.
    read: returns the estimates that are drawn of a record. A panel is left out where no record has any.
    """

    name: str
    title: str
    ylabel: str
    draw: Callable[[Any, Result, Read], None]
    read: Read


def _bounds(estimates: Sequence[dict[str, Any]]) -> list[list[float]]:
    """Return values, lower and upper bounds; a bound that is undefined is the value."""
    rows = [[one["value"] if one[key] is None else one[key] for key in ("value", "low", "high")] for one in estimates]
    # Percentile bounds need not enclose the value where they are close to it.
    return [[row[0] for row in rows], [min(row[:2]) for row in rows], [max(row[0], row[2]) for row in rows]]


def _draw_lines(axis: Any, result: Result, read: Read, xs: Callable[[dict[str, Any]], Sequence[int]]) -> list[int]:
    """Draw a line with its band for each record, where enough samples reach; return the x that were drawn."""
    drawn: set[int] = set()
    for index, item in enumerate(result["records"]):
        estimates = read(item) or []
        most = max((one["n"] for one in estimates), default=0)
        points = [(x, one) for x, one in zip(xs(item), estimates, strict=False)
                  if one["value"] is not None and one["n"] >= max(min(2, most), REACHED * most)]  # fmt: skip
        if points:
            x, (value, low, high) = [point[0] for point in points], _bounds([point[1] for point in points])
            style = curve_style(index, marker=True)
            axis.plot(x, value, label=item["name"], markersize=4.5, **style)
            axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
            drawn |= set(x)
    return sorted(drawn)


def _draw_by_position(axis: Any, result: Result, read: Read) -> None:
    ends = _draw_lines(axis, result, read, lambda item: result["bin_ends"])
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xscale("log", base=2)
    axis.set_xticks(ends, [str(end) for end in ends])
    axis.set_xlabel("token, bins up to (band: 95%)")


def _draw_by_layer(axis: Any, result: Result, read: Read) -> None:
    axis.set_xticks(_draw_lines(axis, result, read, lambda item: range(1, 1 + len(read(item) or []))))
    axis.set(xlabel="decoder layer", ylim=(0, None))


def _draw_by_depth(axis: Any, result: Result, read: Read) -> None:
    axis.set_xticks(_draw_lines(axis, result, read, lambda item: item["neighbours"]["depth"] if read(item) else ()))
    part = next(item["neighbours"] for item in result["records"] if read(item))
    bounds = [[point["null"][bound] for point in part["by_depth"]] for bound in ("low", "high")]
    axis.fill_between(part["depth"], *bounds, color="0.5", alpha=0.35, hatch="////", label="by chance, 95%")
    axis.set(xlabel="after decoder layer (0: its input)", ylim=(0, None))


def _draw_values(axis: Any, result: Result, read: Read) -> None:
    for index, item in enumerate(result["records"]):
        estimates = [one for one in read(item) or () if one["value"] is not None]
        if estimates:
            (value,), (low,), (high,) = _bounds(estimates)
            style = {**curve_style(index, marker=True), "linestyle": "none"}
            axis.errorbar(
                [index], [value], yerr=[[value - low], [high - value]], capsize=4, label=item["name"], **style
            )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks([])


def _draw_own_first(axis: Any, result: Result, read: Read) -> None:
    _draw_values(axis, result, read)
    chances = [item["chance"]["value"] for item in result["records"] if item["chance"]["value"] is not None]
    if chances:
        axis.axhline(sum(chances) / len(chances), color="black", linewidth=0.8, linestyle=":")


_NATS, _TARGET = "nats per token", "VISTA's training target, not evidence"
PANELS = (
    Panel("information", "Information of the image", _NATS, _draw_by_position, _curve("information")),
    Panel("difference", "The same less the first, paired", _NATS, _draw_by_position,
          lambda item: _curve("information")(item.get("difference") or {})),
    Panel("margin", "Margin of the own text", "I(own) - mean I(others)", _draw_values, _one("margin")),
    Panel("own-first", "Own text ranked first (dotted: chance)", "share", _draw_own_first, _one("own_first")),
    Panel("attention", "Attention on the image", "share", _draw_by_position, _curve("attention")),
    Panel("attention-by-layer", "The same by layer", "share", _draw_by_layer, _curve("attention_by_layer")),
    Panel("neighbours", "Neighbours shared with the vision tower", "share", _draw_by_depth, _by_depth),
    Panel("cosine", f"Text and image state\n({_TARGET})", "cosine", _draw_by_position, _curve("cosine")),
)  # fmt: skip


def draw_comparison(result: Result, folder: Path) -> list[Path]:
    """Draw all panels into one figure and each into its own, as PNG and PDF; return the files.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    present = [panel for panel in PANELS if any(panel.read(item) for item in result["records"])]
    written: list[Path] = []
    for name, panels in (("", present), *((f"-{panel.name}", [panel]) for panel in present)):
        files = [folder / f"probe{name}.{kind}" for kind in ("png", "pdf")]
        columns = min(_COLUMNS, len(panels))
        rows = -(-len(panels) // columns)
        with new_figure(4.7 * columns, 3.9 * rows) as figure:
            axes = figure.subplots(rows, columns, squeeze=False).flatten()
            for axis, panel in zip(axes, panels, strict=False):
                axis.set(title=panel.title, ylabel=panel.ylabel)
                panel.draw(axis, result, panel.read)
            for axis in axes[len(panels) :]:
                axis.axis("off")
            add_legend(figure, axes)
            save(figure, files)
        written += files
    return written
