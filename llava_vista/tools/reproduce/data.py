"""Are the training sets there, complete, and laid out as LLaVA's README says?"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from .checklist import Checklist
from .recipes import Data

#: As many missing files are named for each folder.
NAMED = 3


def check_data(checklist: Checklist, data: Data, root: Path) -> list[dict[str, Any]]:
    """Count the samples, and look for every image that they name.

    Returns:
        the samples; empty when the file cannot be used.
    """
    label = "data"
    path, images = root / data.annotations, root / data.images
    if not path.is_file():
        checklist.missing(
            label, f"{path} is not there. Get it from {data.source}, or name the folder with --data-root."
        )
        if data.images != "." and not images.is_dir():
            checklist.missing(label, f"{images} is not there. Get it from {data.source}.")
        return []
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
        names = [record["image"] for record in records if "image" in record]
    except (OSError, ValueError, TypeError, KeyError) as error:
        checklist.missing(label, f"{path} is not LLaVA's JSON ({error}). Was the download cut off?")
        return []
    text_only = len(records) - len(names)
    counted = f"{path.name}: {len(records):,} samples, {text_only:,} of them without an image"
    if data.samples is not None and len(records) != data.samples:
        checklist.missing(label, f"{counted}; the published file has {data.samples:,}. Get it from {data.source}.")
    else:
        checklist.ok(label, counted)
    _check_images(checklist, names, images)
    return list(records)


def _check_images(checklist: Checklist, names: list[str], images: Path) -> None:
    listing = cache(lambda folder: _listing(Path(folder)))
    wanted: Counter[str] = Counter()
    missing: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        folder, _, file = name.rpartition("/")
        group = name.partition("/")[0] if "/" in folder else folder
        wanted[group] += 1
        if file not in listing(str(images / folder)):
            missing[group].append(name)
    for group, count in sorted(wanted.items()):
        place = images / group
        if gone := missing.get(group):
            checklist.missing(
                "data",
                f"{place}: {len(gone):,} of {count:,} images are not there, for example {', '.join(gone[:NAMED])}.",
            )
        else:
            checklist.ok("data", f"{place}: all {count:,} images")


def _listing(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


def some(records: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The same few samples every time, spread over the file."""
    return random.Random(0).sample(records, min(count, len(records)))
