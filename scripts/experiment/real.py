"""The real pipeline: LLaVA-1.5's own entry script, both stages, started as a user starts it, with VISTA or without.

Everything that goes in is that of `stages`: language model, tower, untrained projector, records. Stage 2 keeps a
checkpoint of every reading, which is read from a copy of the weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from held_out import HeldOut
from model import load_llava
from prepare import Setup, made_once, make_scenes_of
from settings import Run

from llava_vista.tools.demo import paired_training
from llava_vista.tools.demo.scene_dataset import DataPaths
from llava_vista.tools.demo.scene_pictures import save_pictures
from llava_vista.tools.demo.tiny_checkpoint import TinyPaths

STAGES = ("pretrain", "finetune")


def write_files(setup: Setup) -> Path:
    """Training records and pictures on disk, in LLaVA's formats; once for all arms of a seed."""
    folder = setup.folder.with_name(f"{setup.folder.name}.files")

    def make(making: Path) -> None:
        scenes = make_scenes_of(setup.run)
        for stage in STAGES:
            (making / f"{stage}.json").write_text(json.dumps(setup.records[stage]))
            save_pictures(scenes[stage], making / "images", setup.run.sizes.image_size)

    made_once(folder, make)
    return folder


def flags(run: Run, stage: str, every: int) -> list[str]:
    """What is added to LLaVA's command line. LLaVA's own Trainer saves the projector alone in stage 1."""
    added = [part for key, value in run.arm.options().items() for part in (f"--vista_{key}", str(value))]
    if added:
        added = ["--vista", *added]
    if stage == "finetune":
        added += ["--lr_scheduler_type", "constant_with_warmup", "--save_strategy", "steps"]
        added += ["--save_steps", str(every), "--save_total_limit", str(run.sizes.finetune_steps)]
    return added


def train(setup: Setup, run: Run, folder: Path, every: int) -> dict[int, Path]:
    """Train both stages in a folder, and return stage 2's checkpoints by their step."""
    files = write_files(setup)
    shutil.rmtree(folder, ignore_errors=True)  # LLaVA would resume from what a killed run left
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
    for stage in STAGES:
        paired_training.train_stage(parts, stage, folder, sizes, run.seed, flags(run, stage, every))
        paired_training.read_stage(folder / stage, with_vista=bool(run.arm.options()))
    found = {int(path.name.rpartition("-")[2]): path for path in (folder / "finetune").glob("checkpoint-*")}
    return dict(sorted(found.items()))


def look(setup: Setup, run: Run, work: Path, every: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train one arm, and return the readings of stage 1 (none) and of stage 2, up to the cap."""
    folder = work / "llava" / f"{run.arm.name}_{run.setup_name}"
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # the logs are in the folder
        checkpoints = train(setup, run, folder, every)
    readings = [HeldOut(load_llava(setup, path), setup).read(step) for step, path in checkpoints.items()]
    shutil.rmtree(folder)
    return [], readings
