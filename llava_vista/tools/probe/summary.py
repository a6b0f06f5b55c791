"""The results in a few lines for the terminal."""

from __future__ import annotations

from typing import Any


def interval(estimate: dict[str, Any] | None, digits: int = 3, factor: float = 1.0) -> str:
    """ "0.123 [0.100, 0.150]", or "-" where it is not defined."""
    if estimate is None or estimate["value"] is None:
        return "-"
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    text = f"{value * factor:.{digits}f}"
    if low is None or high is None:
        return text
    return f"{text} [{low * factor:.{digits}f}, {high * factor:.{digits}f}]"


def summary(record: dict[str, Any]) -> str:
    """One column a checkpoint, one row a number, 95% intervals in brackets."""
    rows: list[tuple[str, ...]] = [("", *(item["name"] for item in record["checkpoints"]))]

    def add(title: str, measure: str, read: Any) -> None:
        cells = [read(item[measure]) if measure in item else "-" for item in record["checkpoints"]]
        if any(cell != "-" for cell in cells):
            rows.append((title, *cells))

    rows.append(("samples", *(str(item["samples"]["used"]) for item in record["checkpoints"])))
    rows.append(("answers", *(item["answers"] for item in record["checkpoints"])))
    add("visual information, nats per token", "information", lambda part: interval(part["mean"]))
    add("  on words marked visual", "information", lambda part: interval(part["mean_on_visual_words"]))
    add("  on other words", "information", lambda part: interval(part["mean_on_other_words"]))
    add("  slope, nats per token per 100 positions", "information", lambda part: interval(part["slope"], factor=100))
    add("attention on the image, mean over layers", "attention", _mean_attention)
    add("neighbourhood agreement at the last layer", "neighbours", lambda part: _last(part, None))
    add("  by chance", "neighbours", lambda part: _last(part, "null"))
    add("L_VISTA l2 (the training target)", "alignment", lambda part: interval(part["vista_loss"]["l2"]))
    add("L_VISTA cosine (the training target)", "alignment", lambda part: interval(part["vista_loss"]["cosine"]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * max(len(line) for line in lines))
    return "\n".join([*lines, f"No image = {record['options']['no_image']}. Brackets: 95%, samples resampled."])


def _mean_attention(part: dict[str, Any]) -> str:
    values = [value for value in part["by_layer"]["total"]["mean"] if value is not None]
    return f"{sum(values) / len(values):.3f}" if values else "-"


def _last(part: dict[str, Any], key: str | None) -> str:
    if not part["by_depth"]:
        return "-"
    estimate = part["by_depth"][-1]
    return interval(estimate[key] if key else estimate)
