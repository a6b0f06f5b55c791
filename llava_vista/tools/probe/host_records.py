"""``llava-vista probe A.json B.json ...``: records of the host's own script, side by side and sample by sample.

Records of the same samples are paired: a difference is resampled over the samples that both have, so that what differs
between samples does not count. The first record is what the others are compared with.
"""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ConfigError, ProbeError
from ...logging import say
from ..kit.json_files import BadFile, read_object
from ..kit.plots import add_legend, curve_style, new_figure, save
from ..kit.rendering import to_text
from ..kit.report import Line, Report, Table
from .bootstrap import Bootstrap, Estimate, percentile_interval
from .probe_options import RESAMPLES, short_names
from .probe_table import interval

_NEEDED = ("samples", "bin_ends", "options")
#: Measure, title, digits. The first is per token, the others per sample that had another to be compared with.
_MEASURES = (
    ("information", "information of the image, nats per token", 4),
    ("margin", "margin of the own text", 6),
    ("own_first", "own text ranked first", 3),
    ("chance", "  by chance", 3),
)
#: Parts of a measure: (N, ...) numerators and denominators of each sample.
Parts = tuple[Tensor, Tensor]


def compare_records(options: Namespace) -> None:
    """Write ``comparison.json`` and, with matplotlib, the figures; print the table.

    Raises:
        ConfigError: names do not fit the files, or files and folders are mixed.
        ProbeError: a file is no record of the host probe.
    """
    names = tuple(options.names or short_names(options.checkpoints))
    if len(set(names)) != len(options.checkpoints) or any(path.suffix != ".json" for path in options.checkpoints):
        raise ConfigError("records (.json) cannot be mixed with checkpoints, and each needs a name of its own.")
    records = [_read(path) for path in options.checkpoints]
    if len({(tuple(record["bin_ends"]), record["options"].get("method")) for record in records}) > 1:
        raise ProbeError("these records were measured with different estimators or bins. Measure them alike.")
    items = [_describe(name, record, options.seed) for name, record in zip(names, records, strict=True)]
    for item, record in zip(items[1:], records[1:], strict=True):
        item["difference"] = _paired(records[0], record, options.seed)
    result = {"bin_ends": records[0]["bin_ends"], "compared_with": names[0], "records": items}
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "comparison.json"
    file.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"{_table(result)}\n\nNumbers  {file}")
    if importlib.util.find_spec("matplotlib") is None:
        say("matplotlib is not installed: no figure. For the figure: pip install 'llava-vista[plots]'")
        return
    print(f"Figures  {', '.join(map(str, draw_records(result, options.output)))}")


def _read(path: Path) -> dict[str, Any]:
    try:
        record = read_object(path)
    except BadFile as error:
        raise ProbeError(str(error)) from error
    missing = [key for key in _NEEDED if key not in record]
    if missing or not record["samples"]:
        raise ProbeError(
            f"{path} has no {' and no '.join(missing or ['samples'])}: it is not a probe.json of `llava-vista probe -- "
            "COMMAND`, which measures each sample."
        )
    return record


def _keys(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return what names each sample in another record of the same data: batch, rank, text, and which of equal ones."""
    seen: Counter[tuple[Any, ...]] = Counter()
    keys = []
    for sample in record["samples"]:
        key = (sample["rank"], sample["batch"], sample["text"])
        keys.append((*key, seen[key]))
        seen[key] += 1
    return keys


def _parts(samples: Sequence[dict[str, Any]], bins: int) -> dict[str, Parts]:
    nats, tokens = (
        torch.tensor([sample[key] + [0] * (bins - len(sample[key])) for sample in samples], dtype=torch.float64)
        for key in ("nats", "tokens")
    )
    parts = {"information": (nats.sum(dim=1), tokens.sum(dim=1)), "by_position": (nats, tokens)}
    for key in ("margin", "own_first", "chance"):
        values = torch.tensor([sample[key] if sample[key] is not None else torch.nan for sample in samples]).double()
        parts[key] = (values.nan_to_num(), values.isfinite().double())
    return parts


def _estimates(size: int, seed: int, parts: Sequence[dict[str, Parts]]) -> dict[str, Any]:
    """Return the estimates of one set of parts, or of the second less the first, over the same resampled samples."""
    counts = Bootstrap(size, RESAMPLES, seed).counts

    def value(weights: Tensor, key: str) -> Tensor:
        ratios = [(weights @ part[key][0]) / (weights @ part[key][1]) for part in parts]
        return ratios[-1] - ratios[0] if len(parts) > 1 else ratios[0]

    found: dict[str, Any] = {}
    for key in parts[0]:
        values, (low, high) = value(torch.ones(1, size).double(), key)[0], percentile_interval(value(counts, key))
        n = torch.stack([part[key][1] > 0 for part in parts]).all(dim=0).sum(dim=0)
        rows = zip(*(column.flatten().tolist() for column in (values, low, high, n)), strict=True)
        estimates = [Estimate(v, lo if many > 1 else torch.nan, hi if many > 1 else torch.nan, many).record()
                     for v, lo, hi, many in rows]  # fmt: skip
        found[key] = estimates if key == "by_position" else estimates[0]
    return found


def _describe(name: str, record: dict[str, Any], seed: int) -> dict[str, Any]:
    samples = record["samples"]
    found = _estimates(len(samples), seed, [_parts(samples, len(record["bin_ends"]))])
    kept = {key: record.get(key) for key in ("model", "class", "seed", "slope")}
    return {"name": name, **kept, "samples": len(samples), **found}


def _paired(first: dict[str, Any], other: dict[str, Any], seed: int) -> dict[str, Any] | None:
    """Return other less first over the samples that both have; None where they share fewer than two."""
    known = dict(zip(_keys(first), first["samples"], strict=True))
    pairs = [(known[key], sample) for key, sample in zip(_keys(other), other["samples"], strict=True) if key in known]
    if len(pairs) < 2:
        return None
    bins = len(first["bin_ends"])
    found = _estimates(len(pairs), seed, [_parts([pair[side] for pair in pairs], bins) for side in (0, 1)])
    return {"samples": len(pairs), **found}


def _table(result: dict[str, Any]) -> str:
    items = result["records"]
    rows: list[tuple[str, ...]] = [("samples", *(str(item["samples"]) for item in items))]
    for key, title, digits in _MEASURES:
        rows.append((title, *(interval(item[key], digits) for item in items)))
    for key, title, digits in _MEASURES[:3]:
        cells = [interval(item["difference"][key], digits) if item.get("difference") else "-" for item in items]
        rows.append((f"  less {items[0]['name']}: {title}", *cells))
    table = Table(("", *(item["name"] for item in items)), rows, left=frozenset(range(len(items) + 1)))
    shared = [item["difference"]["samples"] if item.get("difference") else 0 for item in items[1:]]
    note = "Brackets: 95%, samples resampled."
    if shared:
        note += f" Differences are paired over the samples in common: {', '.join(map(str, shared))}."
    if 0 in shared:
        note += " Records without common samples have none: start both scripts with the same data, seed and batch size."
    return to_text(Report([table, Line("", note)]))


def _draw_by_position(axis: Any, result: dict[str, Any], read: Callable[[dict[str, Any]], Any]) -> None:
    for index, item in enumerate(result["records"]):
        part = read(item)
        columns = zip(result["bin_ends"], (part or {}).get("by_position", ()), strict=False)
        points = [(end, *(one[key] for key in ("value", "low", "high"))) for end, one in columns if one["n"] > 1]
        if points:
            x, value, low, high = zip(*points, strict=True)
            style = curve_style(index, marker=True)
            axis.plot(x, value, label=item["name"], **style)
            axis.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xscale("log", base=2)
    reached = [one for item in result["records"] for one in item["by_position"] if one["n"] > 1]
    ends = result["bin_ends"][: max(1, -(-len(reached) // len(result["records"])))]
    axis.set_xticks(ends, [str(end) for end in ends])
    axis.set(xlabel="answer token, bins up to (band: 95%)", ylabel="nats per token")


def _draw_values(axis: Any, result: dict[str, Any], key: str) -> None:
    for index, item in enumerate(result["records"]):
        one = item[key]
        if one["value"] is not None:
            low, high = (one["value"] if one[end] is None else one[end] for end in ("low", "high"))
            error = [[max(0.0, one["value"] - low)], [max(0.0, high - one["value"])]]
            style = {**curve_style(index, marker=True), "linestyle": "none"}
            axis.errorbar([index], [one["value"]], yerr=error, capsize=4, label=item["name"], **style)
    chances = [item["chance"]["value"] for item in result["records"] if item["chance"]["value"] is not None]
    level = sum(chances) / len(chances) if key == "own_first" and chances else 0
    axis.axhline(level, color="black", linewidth=0.8, linestyle=":" if level else "-")
    axis.set_xticks([])


#: File name, title, and what draws a panel.
_PANELS: tuple[tuple[str, str, Callable[[Any, dict[str, Any]], None]], ...] = (
    ("information", "Information of the image", lambda axis, result: _draw_by_position(axis, result, dict)),
    ("difference", "The same less the first, paired",
     lambda axis, result: _draw_by_position(axis, result, lambda item: item.get("difference"))),
    ("margin", "Margin of the own text", lambda axis, result: _draw_values(axis, result, "margin")),
    ("own-first", "Own text ranked first (dotted: chance)",
     lambda axis, result: _draw_values(axis, result, "own_first")),
)  # fmt: skip


def draw_records(result: dict[str, Any], folder: Path) -> list[Path]:
    """Draw all panels into one figure and each into its own, as PNG and PDF; return the files."""
    written: list[Path] = []
    for name, panels in (("all", _PANELS), *((panel[0], (panel,)) for panel in _PANELS)):
        files = [folder / f"comparison-{name}.{kind}" for kind in ("png", "pdf")]
        with new_figure(4.5 * len(panels), 4.2) as figure:
            axes = figure.subplots(1, len(panels), squeeze=False)[0]
            for axis, (_, title, draw) in zip(axes, panels, strict=True):
                axis.set_title(title)
                draw(axis, result)
            add_legend(figure, axes)
            save(figure, files)
        written += files
    return written
