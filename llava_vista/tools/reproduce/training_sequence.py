"""The trainings, one after the other. A complete one is kept, so an interrupted command can be repeated."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from ...errors import ReproduceError
from ..kit.json_files import BadFile
from ..kit.processes import tail
from ..kit.rendering import to_text
from ..kit.report import Checklist, Report
from ..kit.training_folder import read_training
from .launch_script import find_program, quoted
from .planned_trainings import (
    BASELINE,
    PlannedTraining,
    ReproduceSettings,
    launcher,
    merged_folder,
    planned_trainings,
)
from .prerequisites import check_training
from .recipes import LORA, PRETRAIN
from .training_inputs import MISMATCH, is_model, locate, read_config

#: So many lines about mismatches stop a training. The published data causes a few.
MISMATCHES = 100


def print_checklist(checklist: Checklist, planned: str = "") -> None:
    """Print it, and stop at its problems where something is to be done now (``planned``: "trained").

    Raises:
        ReproduceError: something is missing.
    """
    print(to_text(Report([checklist])), flush=True)
    if planned and checklist.problems:
        listed = "; ".join(f"{line.label}: {line.text}" for line in checklist.problems)
        raise ReproduceError(f"nothing was {planned}, because something is missing. {listed}")


def as_words(flags: Mapping[str, str]) -> list[str]:
    return [word for pair in flags.items() for word in pair]


def train(settings: ReproduceSettings, dry_run: bool) -> int:
    """Run all trainings after the checklist has found no problem, or only show them, and return the exit code.

    Raises:
        ReproduceError: something is missing, or a training failed.
    """
    checklist, recorded = check_training(settings)
    print_checklist(checklist, "" if dry_run else "trained")
    runs = planned_trainings(settings)
    if dry_run:
        _show(runs, recorded)
        count = len(checklist.problems)
        print(f"\n{count} problem{'s' if count > 1 else ''} found (marked !!)." if count else "\nNothing is missing.")
        return 1 if count else 0
    for run in runs:
        if run.is_done:
            print(f"\n=== {run}: done already, in {run.folder} ===", flush=True)
        else:
            _train_one(run, recorded[run.stage.name])
        if run.stage.name == LORA and settings.recipe.merge_script:
            _merge(settings, settings.recipe.merge_script, run.folder)
    return 0


def _show(runs: list[PlannedTraining], recorded: Mapping[str, list[str]]) -> None:
    """Print the cost, and each stage's command with what differs in its other trainings."""
    hours = [run.stage.gpu_hours for run in runs if not run.is_done]
    known = [hour for hour in hours if hour is not None]
    cost = f"{len(runs)} trainings, {len(runs) - len(hours)} of them done"
    if known:
        cost += f"; about {sum(known):g} A100 GPU hours for {len(known)} of the others, by the upstream's README"
    if len(known) < len(hours):
        cost += f"; GPU hours of {len(hours) - len(known)} are not known"
    print(f"\n{cost}.")
    for name, command in recorded.items():
        first, *others = [run for run in runs if run.stage.name == name]
        try:
            values = first.appended(command)
        except ValueError:
            continue  # the checklist has it
        print(f"\n# {first}: {first.settings.root}/{first.stage.script}, with our values at the end")
        print(quoted([*launcher(first.settings), *command, *as_words(values)]))
        for run in others:
            changed = {flag: value for flag, value in run.appended(command).items() if values.get(flag) != value}
            print(f"# {run}: the same, but\n    {quoted(as_words(changed))}")


def _train_one(run: PlannedTraining, command: list[str]) -> None:
    settings, folder = run.settings, run.folder
    start, appended = launcher(settings), as_words(run.appended(command))
    print(f"\n=== {run} ===\n{quoted([*start, *command, *appended])}", flush=True)
    if run.stage.name == PRETRAIN and settings.recipe.projector:
        _make_projector(settings, run.seed)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.log")
    mismatches = 0

    def stop_at_mismatches(line: bytes) -> None:
        nonlocal mismatches
        mismatches += MISMATCH.encode() in line
        if mismatches > MISMATCHES:
            raise ReproduceError(
                f"{run}: stopped after {mismatches} lines of '{MISMATCH}' ({log}): samples lose their labels, because "
                "the conversation template does not fit the tokenizer."
            )

    code = settings.launch_script(run.stage).run(start, appended, log, stop_at_mismatches)
    if mismatches:
        print(f"{mismatches} samples lost their labels by a '{MISMATCH}'; the published data causes a few.", flush=True)
    if code:
        raise ReproduceError(f"{run}: training failed with exit code {code}. The end of {log}: {tail(log, 600)}")
    if not run.is_done:
        lost = f"{folder / run.stage.result} or its weights are not there"
        raise ReproduceError(f"{run}: training ended, but {lost}; its output is in {log}.")
    try:  # VISTA must have acted in its arm, and only there
        observed = read_training(folder).is_observed
    except BadFile as error:
        raise ReproduceError(f"{run}: {error}") from error
    if observed == (run.arm == BASELINE):
        said = "VISTA acted in the baseline" if observed else "VISTA did not act"
        raise ReproduceError(f"{run}: {said}, by the log in {folder}. Try llava-vista doctor.")


def _make_projector(settings: ReproduceSettings, seed: int) -> None:
    path = settings.shared_projector(seed)
    if path.is_file():
        return
    import torch

    from ..kit.untrained_projector import write_projector

    base, tower = (read_config(locate(name) or Path(name)) for name in (settings.base, settings.tower))
    vision_size = tower.get("vision_config", tower)["hidden_size"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_projector(path, int(vision_size), int(base["hidden_size"]))


def _merge(settings: ReproduceSettings, script: str, lora: Path) -> None:
    """Merge a LoRA adapter with the upstream's own script; lmms-eval needs a whole model."""
    target = merged_folder(lora)
    if is_model(target):
        return
    command = [find_program("python") or "python", script, "--model-path", str(lora)]
    command += ["--model-base", settings.base, "--save-model-path", str(target)]
    print(f"\n=== merging {lora.name} ===\n{quoted(command)}", flush=True)
    if code := subprocess.run(command, cwd=settings.root).returncode:
        raise ReproduceError(f"merging {lora} failed with exit code {code}.")
