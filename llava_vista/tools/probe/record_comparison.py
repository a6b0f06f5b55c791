"""Records of samples, compared with the first of them: table, figures, ``comparison.json``.

A record is what the host's own script writes (`llava_vista.hooks.host_probe`), or what `checkpoint_probe` makes of a
checkpoint. Records of the same samples are paired: a difference is resampled over the samples that both have, so that
what differs between samples does not count.
"""

from __future__ import annotations

import importlib.util
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from torch import Tensor

from ...errors import ProbeError
from ...hooks.probed_samples import write_json
from ...logging import say
from ..kit.json_files import BadFile, read_object
from ..kit.rendering import to_text
from ..kit.report import Line, Report, Table
from .bootstrap import RESAMPLES, Bootstrap, Parts
from .comparison_panels import draw_comparison

_NEEDED = ("samples", "bin_ends", "options")
Record = dict[str, Any]


class Measure(NamedTuple):
    """A ratio over samples.

    title: in the table; "" for no row.
    above, below: the keys of a sample that are summed up and divided; no ``below``: the mean over samples.
    is_curve: the keys hold values by bin of positions, or by layer, which have estimates of their own.
    """

    title: str
    above: str
    below: str = ""
    digits: int = 3
    factor: float = 1.0
    is_curve: bool = False


#: In the order of the table. A measure that no sample has is left out.
MEASURES = {
    "information": Measure("information of the image, nats per token", "nats", "tokens", 4, is_curve=True),
    "visual_words": Measure("  on words marked visual", "visual_nats", "visual_tokens", 4),
    "other_words": Measure("  on other words", "other_nats", "other_tokens", 4),
    "slope": Measure("  slope, nats per token per 100 positions", "slope_xy", "slope_xx", 3, 100),
    "margin": Measure("margin of the own text", "margin", digits=6),
    "own_first": Measure("own text ranked first", "own_first"),
    "chance": Measure("  by chance", "chance"),
    "attention": Measure("attention on the image, mean over layers", "attention", "attending", is_curve=True),
    "attention_by_layer": Measure("", "attention_by_layer", is_curve=True),
    "cosine": Measure("cosine of text and image state (VISTA trains it)", "cosine", "text_tokens", is_curve=True),
    "l2": Measure("l2 of text and image state (VISTA trains it)", "l2", "text_tokens", is_curve=True),
}


def compare_files(options: Namespace) -> None:
    """Compare records from files, or raise ProbeError where one is no record of the probe."""
    records = []
    for name, path in zip(options.names, options.checkpoints, strict=True):
        found = read_records(path)
        records += [(name if len(found) == 1 else f"{name}/{record['name']}", record) for record in found]
    compare(records, options)


def read_records(path: Path) -> list[Record]:
    """Return the records of a file, one of a host's script or those of checkpoints; ProbeError if it has none."""
    try:
        content = read_object(path)
    except BadFile as error:
        raise ProbeError(str(error)) from error
    records: list[Record] = content.get("records", [content])
    missing = [key for key in _NEEDED if not all(record.get(key) for record in records)]
    if missing:
        raise ProbeError(
            f"{path} has no {' and no '.join(missing)}: it is not a probe.json of `llava-vista probe`, which measures "
            "each sample."
        )
    return records


def compare(records: Sequence[tuple[str, Record]], options: Namespace) -> None:
    """Write ``comparison.json`` and, with matplotlib, the figures; print the table."""
    first_name, first = records[0]
    if len({(tuple(record["bin_ends"]), record["options"].get("method")) for _, record in records}) > 1:
        raise ProbeError("these records were measured with different estimators or bins. Measure them alike.")
    items = []
    for name, record in records:
        kept = {key: value for key, value in record.items() if key not in (*_NEEDED, *MEASURES)}
        samples = record["samples"]
        items.append({**kept, "name": name, "samples": len(samples), **_estimates(options.seed, samples)})
        if len(items) > 1:
            items[-1]["difference"] = _paired(first, record, options.seed)
    result = {"bin_ends": first["bin_ends"], "compared_with": first_name, "records": items}
    file = write_json(options.output, "comparison.json", result)
    print(f"{_table(result)}\n\nNumbers  {file}")
    if importlib.util.find_spec("matplotlib") is None:
        say("matplotlib is not installed: no figure. For the figure: pip install 'llava-vista[plots]'")
    else:
        print(f"Figures  {', '.join(map(str, draw_comparison(result, options.output)))}")


def _by_key(samples: Sequence[Record]) -> dict[Any, Record]:
    """Return the samples by what names them in another record of the same data, and which of equal ones they are.

    That is the name in the data, where it is known; else rank, batch and text.
    """
    seen: Counter[Any] = Counter()
    found = {}
    for sample in samples:
        key = sample.get("name") or (sample["rank"], sample["batch"], sample["text"])
        found[key, seen[key]] = sample
        seen[key] += 1
    return found


def _column(samples: Sequence[Record], key: str) -> Tensor:
    """Return (N, K) float64, NaN where a sample has no value."""
    rows = [torch.from_numpy(numpy.array(sample.get(key), dtype=float, ndmin=1)) for sample in samples]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)


def _parts(samples: Sequence[Record], measure: Measure) -> Parts:
    above = _column(samples, measure.above)
    below = _column(samples, measure.below).nan_to_num() if measure.below else above.isfinite().double()
    return above.nan_to_num(), below


def _estimates(seed: int, *sides: Sequence[Record]) -> dict[str, Any]:
    """Return the estimates of one list of samples, or of the second less the first, sample by sample."""
    bootstrap, found, curves = Bootstrap(len(sides[0]), RESAMPLES, seed), {}, {}
    for key, measure in MEASURES.items():
        if not all(any(measure.above in sample for sample in samples) for samples in sides):
            continue
        parts = [_parts(samples, measure) for samples in sides]
        found[key] = bootstrap.ratios(*((above.sum(dim=1), below.sum(dim=1)) for above, below in parts))[0].record()
        if measure.is_curve:
            length = min(above.shape[1] for above, _ in parts)
            cut = [(above[:, :length], below[:, :length]) for above, below in parts]
            curves[key] = [one.record() for one in bootstrap.ratios(*cut)]
    return {**found, "curves": curves}


def _paired(first: Record, other: Record, seed: int) -> dict[str, Any] | None:
    """Return other less first over the samples that both have; None where they share fewer than two."""
    sides = [_by_key(record["samples"]) for record in (first, other)]
    shared = [key for key in sides[1] if key in sides[0]]
    if len(shared) < 2:
        return None
    return {"samples": len(shared), **_estimates(seed, *([side[key] for key in shared] for side in sides))}


def interval(estimate: dict[str, Any] | None, digits: int = 3, factor: float = 1.0) -> str:
    """Return "0.123 [0.100, 0.150]", or "-" where it is undefined."""
    if estimate is None or estimate["value"] is None:
        return "-"
    bounds = [estimate[name] for name in ("value", "low", "high") if estimate[name] is not None]
    value, *around = (f"{bound * factor:.{digits}f}" for bound in bounds)
    return f"{value} [{', '.join(around)}]" if len(around) == 2 else value


def _table(result: dict[str, Any]) -> str:
    items = result["records"]
    differences = [item.get("difference") or {} for item in items]
    rows: list[tuple[str, ...]] = [("samples", *(str(item["samples"]) for item in items))]

    def add(title: str, estimates: Sequence[dict[str, Any] | None], digits: int = 3, factor: float = 1) -> None:
        cells = [interval(estimate, digits, factor) for estimate in estimates]
        if title and any(cell != "-" for cell in cells):
            rows.append((title, *cells))

    for key, (title, _, _, digits, factor, _) in MEASURES.items():
        add(title, [item.get(key) for item in items], digits, factor)
    last = [(item.get("neighbours") or {}).get("by_depth") or [None] for item in items]
    add("neighbourhood agreement at the last layer", [depths[-1] for depths in last])
    add("  by chance", [depths[-1] and depths[-1]["null"] for depths in last])
    for key, (title, _, _, digits, factor, _) in MEASURES.items():
        less = f"less {items[0]['name']}: {title.strip()}" if title else ""
        add(less, [difference.get(key) for difference in differences], digits, factor)
    table = Table(("", *(item["name"] for item in items)), rows, left=frozenset(range(len(items) + 1)))
    note = "Brackets: 95%, samples resampled."
    shared = [difference.get("samples", 0) for difference in differences[1:]]
    if shared:
        note += f" Differences are paired over the samples in common: {', '.join(map(str, shared))}."
    if 0 in shared:
        note += " Records without common samples have none: measure both with the same data, seed and batch size."
    return to_text(Report([table, Line("", note)]))
