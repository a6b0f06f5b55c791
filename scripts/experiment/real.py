"""The real path: LLaVA-1.5's own entry script, both stages, started as a user starts it, with ``--vista`` or without.

Everything that goes in is the fast path's: language model, tower, untrained projector, records. What comes out is
measured by the fast path's code, from a copy of the weights.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from model import load_llava
from prepare import Setup, _once, _scenes
from settings import Run
from torch import nn

from llava_vista.tools.demo import paired_training
from llava_vista.tools.demo.scene_dataset import DataPaths
from llava_vista.tools.demo.scene_pictures import save_pictures
from llava_vista.tools.demo.tiny_checkpoint import TinyPaths

STAGES = ("pretrain", "finetune")


def write_files(setup: Setup) -> Path:
    """Training records and pictures on disk, in LLaVA's formats; once for all arms of a seed."""
    folder = setup.folder.with_name(f"{setup.folder.name}.files")

    def make(making: Path) -> None:
        scenes = _scenes(setup.run)
        for stage in STAGES:
            (making / f"{stage}.json").write_text(json.dumps(setup.records[stage]))
            save_pictures(scenes[stage], making / "images", setup.run.sizes.image_size)

    _once(folder, make)
    return folder


def flags(run: Run, stage: str) -> list[str]:
    """What is added to LLaVA's command line: nothing, where the arm does not act."""
    if not run.arm.acts_in(stage):
        return []
    return ["--vista", *(part for key, value in run.arm.options().items() for part in (f"--vista_{key}", str(value)))]


def train(setup: Setup, run: Run, work: Path) -> tuple[nn.Module, dict[str, dict[str, list[float]]]]:
    """Both stages. Returns the model as the fast path has it, and the log of each stage (one value every 5 steps)."""
    files, arm = write_files(setup), work / "llava" / run.name.replace("/", "_")
    shutil.rmtree(arm, ignore_errors=True)  # LLaVA would resume from what a killed run left
    parts = paired_training.Setup(
        TinyPaths(setup.language_model, setup.vision_tower, setup.projector),
        DataPaths(files / "images", files / "pretrain.json", files / "finetune.json", files / "none"),
    )
    sizes = paired_training.Sizes(
        pretrain_epochs=1,
        finetune_epochs=1,
        batch_size=run.sizes.batch,
        pretrain_rate=run.sizes.pretrain_rate,
        finetune_rate=run.sizes.finetune_rate,
    )
    log: dict[str, dict[str, list[float]]] = {}
    for stage in STAGES:
        added = flags(run, stage)
        paired_training.train_stage(parts, stage, arm, sizes, run.seed, added)
        log[stage] = _values(paired_training.read_stage(arm / stage, with_vista=bool(added)).log)
    model = load_llava(setup, arm / "finetune")
    shutil.rmtree(arm)
    return model, log


def _values(records: list[dict[str, Any]]) -> dict[str, list[float]]:
    return {
        "ce": [record.get("ce_loss", record["loss"]) for record in records],
        "vista": [record["vista_loss"] for record in records if "vista_loss" in record],
    }
