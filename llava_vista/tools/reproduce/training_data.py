"""The training sets: present, complete, arranged as LLaVA's README says, and tokenized without a mismatch.

LLaVA notices a "tokenization mismatch" only while it trains: it prints a line, drops the sample's labels, and goes on
with a loss of 0. Run as a program in the upstream's checkout, with a request on stdin, this file tries its own
preprocessing on some samples, and prints the answer.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import subprocess
import sys
import types
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from ..kit.report import Checklist
from .launch_script import find_program
from .recipes import TrainingSet

#: So many missing images are named for each folder.
NAMED = 3
#: So many samples are tokenized. A few of the published ones do not fit; more than this share is a wrong template.
SAMPLES, TOLERATED = 200, 0.02
MISMATCH = "tokenization mismatch"


def check_data(checklist: Checklist, data: TrainingSet, root: Path) -> list[dict[str, Any]]:
    """Count the samples, and look for every image that they name.

    Returns:
        The samples; empty when the file cannot be used.
    """
    label, path, images = "data", root / data.annotations, root / data.images
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
    if data.samples not in (None, len(samples)):
        checklist.wrong(label, f"{counted}; the published file has {data.samples:,}. Get it from {data.source}.")
    else:
        checklist.ok(label, counted)

    listing = cache(_listing)  # for this check only: the folders may change before the next one
    wanted: Counter[str] = Counter()
    missing: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        folder, _, file = name.rpartition("/")
        group = folder.partition("/")[0]
        wanted[group] += 1
        if file not in listing(images / folder):
            missing[group].append(name)
    for group, count in sorted(wanted.items()):
        if gone := missing[group]:
            some = f"{len(gone):,} of {count:,} images are not there, for example {', '.join(gone[:NAMED])}."
            checklist.wrong(label, f"{images / group}: {some}")
        else:
            checklist.ok(label, f"{images / group}: all {count:,} images")
    return list(samples)


def _listing(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError:
        return frozenset()


def check_tokens(checklist: Checklist, root: Path, base: Path, version: str, samples: list[dict[str, Any]]) -> None:
    """Put some samples through LLaVA's own preprocessing, in a process of its own."""
    label = "tokenization"
    some = random.Random(0).sample(samples, min(SAMPLES, len(samples)))
    request = json.dumps({"base": str(base), "version": version, "samples": some})
    command = [find_program("python") or sys.executable, "-m", __name__]
    done = subprocess.run(command, cwd=root, input=request, capture_output=True, text=True)
    try:
        mismatches, bare = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        checklist.wrong(label, f"could not be tried: {done.stderr.strip()[-300:] or 'no answer'}")
        return
    text = f"template {version}, {len(some)} samples: {mismatches} mismatches, {bare} without any label"
    if max(mismatches, bare) > TOLERATED * len(some):
        checklist.wrong(label, f"{text}. The conversation template does not fit the tokenizer in {base}.")
    else:
        checklist.ok(label, text)


def _preprocess(base: str, version: str, samples: list[dict[str, Any]]) -> tuple[int, int]:
    """Return how many samples LLaVA reports as mismatches, and how many it leaves without any label."""
    from llava import conversation
    from llava.train import train
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, model_max_length=2048, padding_side="right", use_fast=False)
    tokenizer.pad_token = tokenizer.unk_token
    templates = conversation.conv_templates
    conversation.default_conversation = templates.get(version, templates["vicuna_v1"])
    train.local_rank = 0
    options = types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
    said, bare = io.StringIO(), 0
    with contextlib.redirect_stdout(said):
        for sample in samples:
            turns = [copy.deepcopy(sample["conversations"])]
            if "image" in sample:
                turns = train.preprocess_multimodal(turns, options)
            labels = train.preprocess(turns, tokenizer, has_image="image" in sample)["labels"][0]
            bare += not bool((labels >= 0).any())
    return said.getvalue().count(MISMATCH), bare


if __name__ == "__main__":
    print(json.dumps(_preprocess(**json.load(sys.stdin))))
