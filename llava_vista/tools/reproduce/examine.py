"""Everything that must be there before a GPU hour is spent, looked at in one go."""

from __future__ import annotations

from pathlib import Path

from ...errors import ReproduceError
from .checklist import Checklist
from .checkpoints import check_checkpoint, check_generation_config
from .data import check_data
from .launch import Recorded
from .machine import check_disk, check_gpus, check_programs, check_upstream
from .plan import Settings, record_all, runs, shared_projector
from .published import check_published
from .recipes import PRETRAIN
from .tokens import check_tokens


def examine(settings: Settings) -> tuple[Checklist, dict[str, Recorded]]:
    """The checklist, and each stage's recorded command line (none where the upstream is missing)."""
    checklist = Checklist()
    recipe = settings.recipe
    stages = [recipe.stage(name) for name in settings.stages]
    recorded: dict[str, Recorded] = {}
    usable = check_upstream(checklist, recipe, settings.root, stages)
    if usable and settings.root is not None:
        try:
            recorded = record_all(settings, settings.root)
        except ReproduceError as error:
            checklist.missing("upstream", str(error))
    for stage in stages:
        if stage.name in recorded and settings.root is not None:
            check_published(checklist, settings, stage, recorded[stage.name], settings.root)
    check_programs(checklist, recipe, settings.root)
    if not recipe.cpu:
        check_gpus(checklist, settings.gpus, stages)
    todo = [run for run in runs(settings) if not run.is_done]
    check_disk(checklist, settings.output, sum(run.stage.disk for run in todo))
    base = check_checkpoint(checklist, "base model", settings.base)
    check_checkpoint(checklist, "vision tower", settings.tower)
    if base is not None:
        check_generation_config(checklist, base)
    for data in dict.fromkeys(stage.data for stage in stages):  # two stages may share one
        records = check_data(checklist, data, settings.data_root)
        users = [recorded[stage.name] for stage in stages if stage.data == data and stage.name in recorded]
        version = users[0].flags.get("version", "") if users else ""
        if records and base is not None and settings.root is not None and version not in ("", "plain"):
            check_tokens(checklist, settings.root, base, version, records, recipe.package)
    _check_earlier(checklist, settings)
    return checklist, recorded


def _check_earlier(checklist: Checklist, settings: Settings) -> None:
    """What earlier runs must have left, or have left over."""
    for run in runs(settings):
        if run.is_done:
            checklist.note("done", f"{run}: {run.folder} is complete, and is kept")
        elif checkpoints := sorted(run.folder.glob("checkpoint-*")):
            checklist.note("resumed", f"{run}: goes on from {checkpoints[-1]}")
        elif run.folder.is_dir() and any(run.folder.iterdir()):
            checklist.note("left over", f"{run}: {run.folder} is not empty and not complete; it is trained again")
        if run.stage.name != PRETRAIN and PRETRAIN not in settings.stages:
            first = settings.recipe.stage(PRETRAIN)
            result = settings.arm_folder(run.seed, run.arm) / first.folder / first.result
            if not result.is_file():
                checklist.missing("stage 1", f"{run} starts from {result}, which is not there: run pretrain first.")
    if settings.recipe.projector and PRETRAIN in settings.stages:
        paths = [shared_projector(settings, seed) for seed in settings.seeds]
        there = [path for path in paths if path.is_file()]
        checklist.ok(
            "paired start",
            f"each seed's arms begin with the same untrained projector ({len(there)} of {len(paths)} made already)",
        )
    elif PRETRAIN in settings.stages:
        checklist.note(
            "paired start",
            f"{settings.recipe.title} makes its connector before the seed is set and takes none from outside in stage "
            "1, so a seed's arms start from different ones. Data order and everything after it are the same.",
        )


def check_model(settings: Settings, folder: Path) -> str | None:
    """Why a folder cannot be evaluated; None when it can."""
    if settings.recipe.merge_script and (folder / "adapter_config.json").is_file():
        return (
            f"{folder} is an unmerged LoRA adapter. Merge it first: python scripts/merge_lora_weights.py --model-path "
            f"{folder} --model-base BASE --save-model-path MERGED (in LLaVA's checkout), or `reproduce train`, which "
            "does so."
        )
    if (
        settings.recipe.package == "tinyllava"
        and "lora" in str(folder)
        and not (folder / "adapter_config.json").is_file()
    ):
        return f"TinyLLaVA takes any model whose path has 'lora' in it for an adapter: {folder}. Name another --output."
    if not (folder / "config.json").is_file():
        return f"{folder} holds no model (no config.json)."
    return None
