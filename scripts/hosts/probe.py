"""`llava-vista probe -- COMMAND` on a host's own script, compared with the batches of a recorded training."""

from __future__ import annotations

import json
import math
import zlib
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from scratch_site import BATCHES

#: More than the training data has: the probe goes over all of them.
ALL_BATCHES = 100


class Failed(Exception):
    """A check did not hold, or a run did not end well."""


class Sample(NamedTuple):
    """What the record says of a sample: a mark of its text tokens, and how many of its tokens are supervised."""

    text: str
    supervised: int


def samples_of_training(folder: Path) -> list[Sample]:
    """Return every sample with an image in the batches that a real training was given."""
    found = []
    for file in sorted(folder.glob(f"{BATCHES}*.pt")):
        batch = torch.load(file, weights_only=True)
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            ids, labels = ids[mask.bool()], labels[mask.bool()]
            is_image = ids == batch["image_token"]
            if is_image.any():
                mark = zlib.crc32(str(ids[~is_image].tolist()).encode())
                found.append(Sample(f"{mark:08x}", int((labels[1:] >= 0).sum())))
    return found


def check_record(record: dict[str, Any], training: list[Sample]) -> str:
    """Compare probe.json with a training's samples; return the figures.

    Raises:
        Failed: a sample of the training was not measured, or with another number of tokens.
    """
    measured = Counter(Sample(one["text"], sum(one["tokens"])) for one in record["samples"])
    missing = Counter(training) - measured
    if missing or not training:
        raise Failed(f"probe: {len(training)} training samples, not measured: {list(missing)[:3]}")
    nats = sum(sum(one["nats"]) for one in record["samples"])
    if not math.isfinite(nats) or not nats:
        raise Failed(f"probe: the image adds {nats} nats in all")
    return f"{record['tokens']} tokens of {len(record['samples'])} samples, {record['information']:+.4f} nats per token"


def figures(output: Path, batches: Path) -> str:
    """Return the figures of ``output``'s record, checked against the batches of a training.

    Raises:
        Failed: see `check_record`.
    """
    record = json.loads((output / "probe.json").read_text(encoding="utf-8"))
    return check_record(record, samples_of_training(batches))
