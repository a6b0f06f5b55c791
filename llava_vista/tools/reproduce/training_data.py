"""The training sets: present, complete, and arranged as LLaVA's README says."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from ..kit.report import Checklist
from .recipes import TrainingSet

#: So many missing images are named for each folder.
NAMED = 3


def check_data(checklist: Checklist, data: TrainingSet, root: Path) -> list[dict[str, Any]]:
    """Count the samples, and look for every image that they name.

    Returns:
        The samples; empty when the file cannot be used.
    """
    label = "data"
    path, images = root / data.annotations, root / data.images
    if not path.is_file():
        checklist.wrong(label, f"{path} is not there. Get it from {data.source}, or name the folder with --data-root.")
        if data.images != "." and not images.is_dir():
            checklist.wrong(label, f"{images} is not there. Get it from {data.source}.")
        return []
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))
        names = [sample["image"] for sample in samples if "image" in sample]
    except (OSError, ValueError, TypeError, KeyError) as error:
        checklist.wrong(label, f"{path} is not LLaVA's JSON ({error}). Was the download cut off?")
        return []
    counted = f"{path.name}: {len(samples):,} samples, {len(samples) - len(names):,} of them without an image"
    if data.samples is not None and len(samples) != data.samples:
        checklist.wrong(label, f"{counted}; the published file has {data.samples:,}. Get it from {data.source}.")
    else:
        checklist.ok(label, counted)
    _check_images(checklist, names, images)
    return list(samples)


def _check_images(checklist: Checklist, names: list[str], images: Path) -> None:
    listing = cache(_listing)  # for this check only: the folders may change before the next one
    wanted: Counter[str] = Counter()
    missing: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        folder, _, file = name.rpartition("/")
        group = name.partition("/")[0] if "/" in folder else folder
        wanted[group] += 1
        if file not in listing(images / folder):
            missing[group].append(name)
    for group, count in sorted(wanted.items()):
        if gone := missing.get(group):
            examples = ", ".join(gone[:NAMED])
            text = f"{images / group}: {len(gone):,} of {count:,} images are not there, for example {examples}."
            checklist.wrong("data", text)
        else:
            checklist.ok("data", f"{images / group}: all {count:,} images")


def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()
