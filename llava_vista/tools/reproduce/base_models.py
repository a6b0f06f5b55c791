"""Base checkpoints: present, complete, and savable at the end of a training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..kit.json_files import BadFile, read_object
from ..kit.report import Checklist

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


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
