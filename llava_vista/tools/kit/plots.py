"""Set-up of matplotlib for all figures: styles that survive a grey print, no display, the same bytes every time."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .extras import requires_extra

#: Curves differ in lightness, line and marker. The first is for a baseline.
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#222222", "linestyle": "-", "marker": "o"},
    {"color": "#d95f02", "linestyle": "--", "marker": "s"},
    {"color": "#5aa9d6", "linestyle": "-.", "marker": "^"},
    {"color": "#7b3294", "linestyle": ":", "marker": "D"},
    {"color": "#8c8c8c", "linestyle": (0, (6, 1, 1, 1, 1, 1)), "marker": "v"},
    {"color": "#c9a400", "linestyle": (0, (1, 1)), "marker": "P"},
)
_SETTINGS: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "path",  # a viewer without the font draws the same letters
    "svg.hashsalt": "llava-vista",
    "figure.constrained_layout.use": True,
}


def curve_style(index: int, *, marker: bool = False) -> dict[str, Any]:
    """Return colour and line of the curve with this number, and its marker if wanted."""
    style = STYLES[index % len(STYLES)]
    return {name: style[name] for name in style if marker or name != "marker"}


@contextmanager
def new_figure(width: float, height: float, settings: Mapping[Any, Any] | None = None) -> Iterator[Any]:
    """Give an empty figure (inches), with the settings applied until the block ends: draw it and write it inside."""
    with requires_extra("plots"):
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    with rc_context({**_SETTINGS, **(settings or {})}):
        yield Figure(figsize=(width, height))  # not pyplot's: it needs no display and no closing


def add_legend(figure: Any, axes: Sequence[Any]) -> None:
    """Add one legend below all panels."""
    entries = {label: line for axis in axes for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)


def to_bytes(figure: Any, kind: str = "svg") -> bytes:
    """Return a figure as ``svg``, ``png`` or ``pdf``, without a date."""
    buffer = io.BytesIO()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    figure.savefig(buffer, format=kind, dpi=130, metadata=undated.get(kind))
    return buffer.getvalue()


def save(figure: Any, paths: Sequence[Path]) -> None:
    """Write a figure to files; the suffix gives the format."""
    for path in paths:
        path.write_bytes(to_bytes(figure, path.suffix.lstrip(".").lower()))
