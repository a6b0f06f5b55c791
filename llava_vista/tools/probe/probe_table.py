"""The results as a table for the terminal: one column a checkpoint, one row a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..kit.rendering import to_text
from ..kit.report import Line, Report, Table


def interval(estimate: dict[str, Any] | None, digits: int = 3, factor: float = 1.0) -> str:
    """Return "0.123 [0.100, 0.150]", or "-" where it is undefined."""
    if estimate is None or estimate["value"] is None:
        return "-"
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    text = f"{value * factor:.{digits}f}"
    return text if low is None or high is None else f"{text} [{low * factor:.{digits}f}, {high * factor:.{digits}f}]"


def _mean_attention(part: dict[str, Any]) -> str:
    values = [value for value in part["by_layer"]["total"]["mean"] if value is not None]
    return f"{sum(values) / len(values):.3f}" if values else "-"


#: Title, measure, and how a cell is read from the measure's record.
ROWS: tuple[tuple[str, str, Callable[[dict[str, Any]], str]], ...] = (
    ("visual information, nats per token", "information", lambda part: interval(part["mean"])),
    ("  on words marked visual", "information", lambda part: interval(part["mean_on_visual_words"])),
    ("  on other words", "information", lambda part: interval(part["mean_on_other_words"])),
    ("  slope, nats per token per 100 positions", "information", lambda part: interval(part["slope"], factor=100)),
    ("attention on the image, mean over layers", "attention", _mean_attention),
    (
        "neighbourhood agreement at the last layer",
        "neighbours",
        lambda part: interval(part["by_depth"][-1] if part["by_depth"] else None),
    ),
    ("  by chance", "neighbours", lambda part: interval(part["by_depth"][-1]["null"] if part["by_depth"] else None)),
    ("L_VISTA l2 (the training target)", "alignment", lambda part: interval(part["vista_loss"]["l2"])),
    ("L_VISTA cosine (the training target)", "alignment", lambda part: interval(part["vista_loss"]["cosine"])),
)


def results_table(record: dict[str, Any]) -> str:
    """Return the table of what ``probe.json`` holds, with 95% intervals in brackets."""
    items = record["checkpoints"]
    rows: list[tuple[str, ...]] = [
        ("samples", *(str(item["samples"]["used"]) for item in items)),
        ("answers", *(item["answers"] for item in items)),
    ]
    for title, measure, read in ROWS:
        cells = [read(item[measure]) if measure in item else "-" for item in items]
        if any(cell != "-" for cell in cells):
            rows.append((title, *cells))
    table = Table(("", *(item["name"] for item in items)), rows, left=frozenset(range(len(items) + 1)))
    note = f"No image = {record['options']['no_image']}. Brackets: 95%, samples resampled."
    return to_text(Report([table, Line("", note)]))
