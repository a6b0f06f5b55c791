"""What a training starts from: the base checkpoints, and the training sets with their template.

LLaVA notices a "tokenization mismatch" only while it trains: it prints a line, drops the sample's labels, and goes on
with a loss of 0. Run as a program in the upstream's checkout, with a request on stdin, this file tries LLaVA's own
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
import tempfile
import types
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from ..kit.json_files import BadFile, read_object
from ..kit.report import Checklist
from .launch_script import find_program
from .recipes import TrainingSet

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
#: So many missing images are named for each folder.
NAMED = 3
#: So many samples are tokenized. A few of the published ones do not fit; more than this share is a wrong template.
SAMPLES, TOLERATED = 200, 0.02
MISMATCH = "tokenization mismatch"


def locate(name: str) -> Path | None:
    """Return the folder of a checkpoint: a directory, or a hub id that was downloaded. Downloads nothing."""
    if Path(name).is_dir():
        return Path(name).resolve()
    try:
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(name, "config.json")
    except (ModuleNotFoundError, ValueError):  # nothing is installed here; or a path, which is no hub id
        return None
    return Path(config).parent if isinstance(config, str) else None


def read_config(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config.json, {} when it is missing or unreadable."""
    try:
        return read_object(folder / "config.json")
    except BadFile:
        return {}


def is_model(folder: Path) -> bool:
    """Return whether a whole model is there. Its weights are written after its config."""
    return bool(read_config(folder)) and not _lost_weights(folder)


def _lost_weights(folder: Path) -> list[str]:
    for index in (folder / f"{name}.index.json" for name in _WEIGHTS):
        if index.is_file():
            try:
                shards = sorted(set(read_object(index)["weight_map"].values()))
            except (BadFile, KeyError, AttributeError):
                return [f"{index.name} cannot be read"]
            return [shard for shard in shards if not (folder / shard).is_file()]
    return [] if any((folder / name).is_file() for name in _WEIGHTS) else [" or ".join(_WEIGHTS)]


def check_checkpoint(checklist: Checklist, label: str, name: str) -> Path | None:
    """Check the config and every shard of the weights, and return the folder (None: not there)."""
    folder = locate(name)
    if folder is None:
        checklist.wrong(label, f"{name} is neither a directory nor downloaded. Run huggingface-cli download {name}.")
        return None
    if not read_config(folder):
        checklist.wrong(label, f"{folder} has no config.json that can be read. Download it again.")
    if lost := _lost_weights(folder):
        checklist.wrong(label, f"{folder} lacks weights: {', '.join(lost[:4])}. Download it again.")
    else:
        checklist.ok(label, f"{name} in {folder}" if str(folder) != name else name)
    return folder


def check_generation_config(checklist: Checklist, folder: Path) -> None:
    """Save the generation config, as the end of the training will. transformers refuses one that contradicts itself.

    Vicuna 1.5 came with one ("generation config instance is invalid"): trainings ended with that error after the last
    step, without a checkpoint.
    """
    label, path = "generation config", folder / "generation_config.json"
    if not path.is_file():
        checklist.ok(label, "the base checkpoint has none; the model's own defaults are saved")
        return
    try:
        from transformers import GenerationConfig

        with tempfile.TemporaryDirectory() as target:
            GenerationConfig.from_pretrained(str(folder)).save_pretrained(target)
    except ImportError as error:
        checklist.wrong(label, f"{path} could not be tried: transformers cannot be imported ({error}).")
    except (ValueError, OSError) as error:
        said = str(error).partition("\n")[0]
        checklist.wrong(
            label,
            f"{path} cannot be saved by this version of transformers ({said}), so the training would fail after its "
            'last step. Put "do_sample": true into that file, or delete its "temperature" and "top_p".',
        )
    else:
        checklist.ok(label, f"{path} can be saved")


def check_data(checklist: Checklist, data: TrainingSet, root: Path) -> list[dict[str, Any]]:
    """Count the samples, look for every image that they name, and return the samples; [] when the file is unusable."""
    label, path, images, source = "data", root / data.annotations, root / data.images, f"Get it from {data.source}"
    if not path.is_file():
        checklist.wrong(label, f"{path} is not there. {source}, or name the folder with --data-root.")
        if data.images != "." and not images.is_dir():
            checklist.wrong(label, f"{images} is not there. {source}.")
        return []
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))
        names = [sample["image"] for sample in samples if "image" in sample]
    except (OSError, ValueError, TypeError, KeyError) as error:
        checklist.wrong(label, f"{path} is not LLaVA's JSON ({error}). Was the download cut off?")
        return []
    counted = f"{path.name}: {len(samples):,} samples, {len(samples) - len(names):,} of them without an image"
    lost = "" if data.samples in (None, len(samples)) else f"; the published file has {data.samples:,}. {source}."
    (checklist.wrong if lost else checklist.ok)(label, counted + lost)

    @cache  # for this check only: the folders may change before the next one
    def listing(folder: Path) -> frozenset[str]:
        try:
            return frozenset(os.listdir(folder))
        except OSError:
            return frozenset()

    groups: dict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(names):
        groups[os.path.dirname(name).partition("/")[0]].append(name)
    for group, members in sorted(groups.items()):
        gone = [name for name in members if os.path.basename(name) not in listing(images / os.path.dirname(name))]
        some = f"{len(gone):,} of {len(members):,} images are not there, for example {', '.join(gone[:NAMED])}."
        text = some if gone else f"all {len(members):,} images"
        (checklist.wrong if gone else checklist.ok)(label, f"{images / group}: {text}")
    return list(samples)


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
