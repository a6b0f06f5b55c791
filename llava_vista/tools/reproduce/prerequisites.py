"""Everything that must be right before a GPU hour is spent, checked in one go: nothing stops at the first problem."""

from __future__ import annotations

from pathlib import Path

from ...errors import ReproduceError
from ..kit.json_files import BadFile, read_object
from ..kit.report import Checklist
from .base_models import check_checkpoint, check_generation_config
from .installation import check_disk, check_gpus, check_programs, check_upstream
from .launch_script import read_flags
from .planned_trainings import ReproduceSettings, global_batch, planned_trainings
from .recipes import PRETRAIN, Stage
from .training_data import check_data, check_tokens


def check_training(settings: ReproduceSettings) -> tuple[Checklist, dict[str, list[str]]]:
    """Return the checklist, and each stage's recorded command (none where the upstream is missing)."""
    checklist, recipe = Checklist(), settings.recipe
    stages = [recipe.stages[name] for name in settings.stages]
    recorded: dict[str, list[str]] = {}
    for stage in stages if check_upstream(checklist, recipe, settings.root, stages) else ():
        try:
            recorded[stage.name] = settings.launch_script(stage).record()
        except ReproduceError as error:
            checklist.wrong("upstream", str(error))
        else:
            check_published(checklist, settings, stage, recorded[stage.name])
    check_programs(checklist, recipe, settings.root)
    if not recipe.cpu:
        check_gpus(checklist, settings.gpus, stages)
    needed = sum(run.stage.disk for run in planned_trainings(settings) if not run.is_done)
    check_disk(checklist, settings.output, needed)
    base = check_checkpoint(checklist, "base model", settings.base)
    check_checkpoint(checklist, "vision tower", settings.tower)
    if base is not None:
        check_generation_config(checklist, base)
    for data in dict.fromkeys(stage.data for stage in stages):  # two stages may share one
        samples = check_data(checklist, data, settings.data_root)
        commands = [recorded[stage.name] for stage in stages if stage.data == data and stage.name in recorded]
        version = read_flags(commands[0]).get("version", "plain") if commands else "plain"
        if recipe.package != "llava":
            checklist.note("tokenization", "not tried before training; a training that reports mismatches is stopped")
        elif samples and base and settings.root and version != "plain":
            check_tokens(checklist, settings.root, base, version, samples)
    _check_earlier(checklist, settings)
    return checklist, recorded


def check_published(checklist: Checklist, settings: ReproduceSettings, stage: Stage, recorded: list[str]) -> None:
    """Compare the upstream's own command with the published numbers, the global batch size and the ZeRO stage."""
    label, flags = f"{stage.name} as published", read_flags(recorded)
    try:
        per_device, steps = global_batch(settings, stage, recorded)
    except (ValueError, KeyError) as error:
        checklist.wrong(label, f"global batch size: {error}.")
    else:
        parts = f"{per_device} per device x {settings.gpus} GPUs x {steps} accumulated"
        checklist.ok(label, f"global batch size {stage.batch} = {parts}")
    zero = _zero_stage(settings.root or Path(), flags.get("deepspeed", ""))
    wrong = [
        f"{name} is {flags.get(name, 'not given')}, published {value:g}"
        for name, value in stage.published.items()
        if not _is_number(flags.get(name, ""), value)
    ]
    if stage.zero not in (None, zero):
        wrong.append(f"ZeRO stage is {zero}, published {stage.zero}")
    if wrong:
        checklist.wrong(label, f"{stage.script}: {'; '.join(wrong)}. Is this another version of the script?")
    else:
        numbers = ", ".join(f"{name} {value:g}" for name, value in stage.published.items())
        checklist.ok(label, f"{numbers}{f', ZeRO-{zero}' if zero is not None else ''}, in the upstream's own script")


def _is_number(text: str, value: float) -> bool:
    try:
        return float(text) == value
    except ValueError:
        return False


def _zero_stage(root: Path, name: str) -> int | None:
    try:
        return int(read_object(root / name)["zero_optimization"]["stage"])
    except (BadFile, ValueError, KeyError, TypeError):
        return None


def _check_earlier(checklist: Checklist, settings: ReproduceSettings) -> None:
    """Check what earlier commands must have left, and note what they have left over."""
    recipe, begins = settings.recipe, PRETRAIN in settings.stages
    for run in planned_trainings(settings):
        if run.is_done:
            checklist.note("done", f"{run}: {run.folder} is complete, and is kept")
        elif any(run.folder.glob("checkpoint-*")):
            checklist.note("resumed", f"{run}: continues from the last checkpoint in {run.folder}")
        elif run.folder.is_dir() and any(run.folder.iterdir()):
            checklist.note("left over", f"{run}: {run.folder} is not empty and not complete; it is trained again")
        first = run.pretrained / recipe.stages[PRETRAIN].result
        if not begins and not first.is_file():
            checklist.wrong("stage 1", f"{run} starts from {first}, which is not there: run {PRETRAIN} first.")
    if begins and recipe.projector:
        made = sum(settings.shared_projector(seed).is_file() for seed in settings.seeds)
        counted = f"{made} of {len(settings.seeds)} made already"
        checklist.ok("paired start", f"each seed's arms begin with the same untrained projector ({counted})")
    elif begins:
        checklist.note(
            "paired start",
            f"{recipe.title} makes its connector before the seed is set and takes none from outside in stage 1, so a "
            "seed's arms start from different ones. Data order and everything after it are the same.",
        )
