"""The figure: all measures of all checkpoints on one page, made to be read, also when printed in grey."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .summary import interval

#: colour, line, marker: the colours differ in lightness, and line and marker tell checkpoints apart without them
STYLES = (
    ("#0b3c6f", "-", "o"),
    ("#e2660a", "--", "s"),
    ("#6aae4a", "-.", "^"),
    ("#8c2d82", ":", "D"),
    ("#7f7f7f", (0, (6, 1, 1, 1, 1, 1)), "v"),
    ("#c9a400", (0, (1, 1)), "P"),
)
#: A curve is drawn where at least this share of the samples reaches; the JSON has all of it.
REACHED = 0.1
_NAME = 48
_ROW_INCHES = 3.7
#: what fits beside each other in the legend of the whole
_LEGEND_LETTERS = 150
_Item = dict[str, Any]


def draw(record: dict[str, Any], paths: Sequence[Path]) -> None:
    """Draw the results.

    Args:
        record: what ``probe.json`` holds.
        paths: files to write; the suffix tells the format.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    items = record["checkpoints"]
    rows = _rows({measure for item in items for measure in _PANELS_OF if measure in item})
    with rc_context({"font.size": 10, "axes.titlesize": 10.5, "axes.titleweight": "bold", "svg.hashsalt": "probe"}):
        labels = [f"{_short(item['name'])} (n = {item['samples']['used']} samples)" for item in items]
        columns = max(1, min(len(items), _LEGEND_LETTERS // (max(len(label) for label in labels) + 10)))
        head = 0.3 + 0.25 * -(-len(items) // columns)  # inches
        figure = Figure(figsize=(14, head + _ROW_INCHES * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        mosaic: list[Any] = [["head"] * 6, *rows]
        axes = figure.subplot_mosaic(mosaic, height_ratios=[head, *[_ROW_INCHES] * len(rows)])
        _head(axes.pop("head"), labels, columns)
        for name, axis in axes.items():
            _PANELS[name](axis, items)
            axis.grid(alpha=0.3, linewidth=0.6)
            axis.spines[["top", "right"]].set_visible(False)
        for path in paths:
            figure.savefig(path, dpi=130)


def _rows(measured: set[str]) -> list[list[str]]:
    """The mosaic's rows, six columns wide, of what was measured."""
    rows = []
    if "information" in measured:
        rows.append(["curve"] * 4 + ["means"] * 2)
    middle = [panel for measure in ("attention", "neighbours") if measure in measured for panel in _PANELS_OF[measure]]
    if middle:
        rows.append([panel for panel in middle for _ in range(6 // len(middle))])
    if "alignment" in measured:
        rows.append([panel for panel in _PANELS_OF["alignment"] for _ in range(2)])
    return rows


def _style(index: int) -> dict[str, Any]:
    color, line, marker = STYLES[index % len(STYLES)]
    return {"color": color, "linestyle": line, "marker": marker}


def _short(name: str) -> str:
    return name if len(name) <= _NAME else f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}"


def _head(axis: Any, labels: Sequence[str], columns: int) -> None:
    """Who is who, once for all panels."""
    axis.axis("off")
    for index, label in enumerate(labels):
        axis.plot([], [], label=label, linewidth=2, markersize=6, **_style(index))
    legend = axis.legend(loc="center", ncol=columns, frameon=False, fontsize=11, handlelength=3.5)
    legend.set_in_layout(False)  # it may be wider than its axes, which must not make the panels narrower


def _line(axis: Any, index: int, curve: dict[str, Any], label: str | None = None, factor: float = 1.0) -> None:
    """A curve with its band, where enough samples reach."""
    enough = max(2, REACHED * max(curve["n"], default=0))
    points = [
        (x, mean, low if low is not None else mean, high if high is not None else mean)
        for x, mean, low, high, n in zip(*(curve[key] for key in ("x", "mean", "low", "high", "n")), strict=True)
        if mean is not None and n >= min(enough, max(curve["n"]))
    ]
    if not points:
        return
    x = [point[0] for point in points]
    mean, low, high = ([factor * point[column] for point in points] for column in (1, 2, 3))
    style = _style(index)
    every = max(1, len(x) // 12)
    axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    axis.plot(
        x, mean, label=label, linewidth=1.6, markersize=4.5, markevery=((index * every // 3) % every, every), **style
    )


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _curve(axis: Any, items: Sequence[_Item]) -> None:
    for index, item in enumerate(items):
        part = item["information"]
        slope = interval(part["slope"], digits=2, factor=100)
        _line(axis, index, part["curve"], f"slope {slope} nats per 100 positions")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_title(
        "Visual information by answer position: log p(y | image) - log p(y | no image)\n"
        f"no image = {items[0]['information']['no_image']}"
    )
    axis.set_xlabel(f"answer token t (band: 95%, samples resampled; where ≥ {REACHED:.0%} of the samples reach)")
    axis.set_ylabel("visual information (nats per token)")
    _whole_ticks(axis)
    bottom, top = axis.get_ylim()
    lines = -(-len(items) // 2)
    axis.set_ylim(bottom, top + (top - bottom) * 0.09 * lines)  # the legend has room above the curves
    axis.legend(loc="upper center", ncol=2, frameon=False, fontsize=9, handlelength=3.5)


def _means(axis: Any, items: Sequence[_Item]) -> None:
    kinds = [
        ("mean", "all answer\ntokens"),
        ("mean_on_visual_words", "marked\nvisual"),
        ("mean_on_other_words", "others"),
    ]
    kinds = [kind for kind in kinds if any(item["information"][kind[0]] for item in items)]
    for row, (key, _) in enumerate(kinds):
        for index, item in enumerate(items):
            estimate = item["information"][key]
            if estimate is None or estimate["value"] is None:
                continue
            value = estimate["value"]
            low = value if estimate["low"] is None else estimate["low"]
            high = value if estimate["high"] is None else estimate["high"]
            at = -row + 0.5 * ((len(items) - 1) / 2 - index) / max(1, len(items) - 1)
            color, _, marker = STYLES[index % len(STYLES)]
            # percentile bounds need not enclose the value where they are not far from it
            error = [[max(0.0, value - low)], [max(0.0, high - value)]]
            axis.errorbar([value], [at], xerr=error, color=color, marker=marker, markersize=6, capsize=4, linewidth=1.6)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks([-row for row in range(len(kinds))], [label for _, label in kinds])
    axis.set_ylim(-len(kinds) + 0.4, 0.6)
    axis.set_title("Mean visual information")
    axis.set_xlabel("nats per token (bars: 95%)")


def _whole_ticks(axis: Any) -> None:
    """Positions and layers are counted: no 2.5th."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _attention_by_layer(axis: Any, items: Sequence[_Item]) -> None:
    for index, item in enumerate(items):
        _line(axis, index, item["attention"]["by_layer"]["total"], factor=100)
    axis.set_title("Attention on the image by layer")
    axis.set_xlabel("decoder layer (mean over text after the image)")
    axis.set_ylabel("% of attention")
    axis.set_ylim(bottom=0)
    _whole_ticks(axis)
    _per_image_token(axis, items)


def _attention_by_position(axis: Any, items: Sequence[_Item]) -> None:
    for index, item in enumerate(items):
        _line(axis, index, item["attention"]["by_position"]["total"], factor=100)
    axis.set_title("Attention on the image by text position")
    axis.set_xlabel("text token t (mean over layers)")
    axis.set_ylabel("% of attention")
    axis.set_ylim(bottom=0)
    _whole_ticks(axis)
    _per_image_token(axis, items)


def _per_image_token(axis: Any, items: Sequence[_Item]) -> None:
    """A second scale, where every image of every checkpoint has the same number of tokens."""
    sizes = {item["attention"]["image_tokens"][bound] for item in items for bound in ("min", "max")}
    if len(sizes) == 1:
        size = sizes.pop()
        second = axis.secondary_yaxis("right", functions=(lambda y: y / size, lambda y: y * size))
        second.set_ylabel(f"% per image token (of {size})", labelpad=8)


def _neighbours(axis: Any, items: Sequence[_Item]) -> None:
    for index, item in enumerate(items):
        part = item["neighbours"]
        if not part["by_depth"]:
            continue
        curve = {key: [point[name] for point in part["by_depth"]] for key, name in _CURVE_KEYS}
        _line(axis, index, {**curve, "x": part["depth"]})
    measured = [item["neighbours"] for item in items if item["neighbours"]["by_depth"]]
    if measured:
        longest = max(measured, key=lambda part: max(part["depth"]))
        nulls = [point["null"] for point in longest["by_depth"]]
        bounds = ([null["low"] for null in nulls], [null["high"] for null in nulls])
        axis.fill_between(longest["depth"], *bounds, color="0.5", alpha=0.35, hatch="////", label="by chance, 95%")
        axis.legend(frameon=False, fontsize=9)
        title = f"Neighbours shared with vision tower\nmutual {longest['k']}-NN of {longest['images']} images"
    else:
        title = "Neighbourhood agreement: too few images"
    axis.set_title(title)
    axis.set_xlabel("after decoder layer (0: its input)")
    axis.set_ylabel("share of neighbours in common")
    axis.set_ylim(bottom=0)
    _whole_ticks(axis)


_CURVE_KEYS = (("mean", "value"), ("low", "low"), ("high", "high"), ("n", "n"))


def _alignment(name: str, title: str, label: str) -> Callable[[Any, Sequence[_Item]], None]:
    def panel(axis: Any, items: Sequence[_Item]) -> None:
        for index, item in enumerate(items):
            _line(axis, index, item["alignment"][name]["curve"])
        axis.set_title(title)
        axis.set_xlabel("text token t")
        axis.set_ylabel(label)
        _whole_ticks(axis)

    return panel


_TARGET = "VISTA's training target, not evidence"
_PANELS_OF = {
    "information": ("curve", "means"),
    "attention": ("by_layer", "by_position"),
    "neighbours": ("neighbours",),
    "alignment": ("cosine", "l2", "weight"),
}
_PANELS: dict[str, Callable[[Any, Sequence[_Item]], None]] = {
    "curve": _curve,
    "means": _means,
    "by_layer": _attention_by_layer,
    "by_position": _attention_by_position,
    "neighbours": _neighbours,
    "cosine": _alignment("cosine", f"Alignment, cosine\n({_TARGET})", "cos(S$_n$, x$_t$)"),
    "l2": _alignment("l2", f"Alignment, l2\n({_TARGET})", "$-$mean (S$_n$ $-$ x$_t$)$^2$"),
    "weight": _alignment("weight", "Weight that VISTA puts there\n(t/m)/m, mean over samples", "weight"),
}
