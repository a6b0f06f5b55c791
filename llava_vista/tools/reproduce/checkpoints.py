"""Base checkpoints: there, complete, and savable at the end of a run."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from .checklist import Checklist

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def hub_cache() -> Path:
    """Where the Hugging Face hub keeps what it has downloaded."""
    if folder := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(folder)
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "huggingface"
    return Path(home) / "hub"


def locate(name: str) -> Path | None:
    """The folder of a checkpoint: a directory, or a hub id whose snapshot is there. Nothing is downloaded."""
    if Path(name).is_dir():
        return Path(name).resolve()
    folder = hub_cache() / f"models--{name.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = folder / "snapshots" / revision
    return snapshot if snapshot.is_dir() else None


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json; {} when there is none that can be read."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_checkpoint(checklist: Checklist, label: str, name: str) -> Path | None:
    """Config and every shard of the weights.

    Returns:
        the folder, if it is there at all.
    """
    folder = locate(name)
    if folder is None:
        checklist.missing(
            label,
            f"{name} is neither a directory nor in {hub_cache()}. huggingface-cli download {name}, or name a "
            "directory.",
        )
        return None
    if not read_config(folder):
        checklist.missing(label, f"{folder} has no config.json that can be read.")
    lost = _lost_weights(folder)
    if lost:
        checklist.missing(label, f"{folder} lacks weights: {', '.join(lost[:4])}. Was the download cut off?")
    else:
        checklist.ok(label, f"{name} in {folder}" if str(folder) != name else str(folder))
    return folder


def is_model(folder: Path) -> bool:
    """Whether a whole model lies there. Its weights are written after its config."""
    return bool(read_config(folder)) and not _lost_weights(folder)


def _lost_weights(folder: Path) -> list[str]:
    for index in _INDEXES:
        if (folder / index).is_file():
            try:
                shards = sorted(set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, AttributeError):
                return [f"{index} cannot be read"]
            return [shard for shard in shards if not (folder / shard).is_file()]
    return [] if any((folder / name).is_file() for name in _WEIGHTS) else [" or ".join(_WEIGHTS)]


def check_generation_config(checklist: Checklist, folder: Path) -> None:
    """Save the generation config as the end of the run will. transformers refuses one that contradicts itself.

    Vicuna 1.5 came with such a one ("generation config instance is invalid"): runs have ended with that error after
    the last step, without a checkpoint.
    """
    label = "generation config"
    path = folder / "generation_config.json"
    if not path.is_file():
        checklist.ok(label, "the base checkpoint has none; the model's own defaults are saved")
        return
    try:
        from transformers import GenerationConfig
    except ImportError as error:
        checklist.missing(label, f"{path} could not be tried: transformers cannot be imported ({error}).")
        return
    try:
        config = GenerationConfig.from_pretrained(str(folder))
        with tempfile.TemporaryDirectory() as target:
            config.save_pretrained(target)
    except (ValueError, OSError) as error:
        said = str(error).split("\n")[0]
        checklist.missing(
            label,
            f"{path} cannot be saved by this version of transformers ({said}), so the run would fail after its last "
            'step. Put "do_sample": true into that file, or delete its "temperature" and "top_p".',
        )
    else:
        checklist.ok(label, f"{path} can be saved")
