"""The trainings themselves, one after the other; what is there already is kept."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ...errors import ReproduceError
from ..demo.paired_training import read_stage
from .checkpoints import is_model, locate, read_config
from .examine import examine
from .launch import Change, Recorded, find_program, quoted, run
from .plan import BASELINE, Run, Settings, change, merged_folder, runs, shared_projector, words
from .recipes import LORA, PRETRAIN
from .tokens import MISMATCH

#: So many lines about mismatches stop a run. The published data causes a few.
MISMATCHES = 100


def show(settings: Settings) -> int:
    """The checklist, and the exact command lines; nothing is run.

    Returns:
        0, or 1 when something is missing.
    """
    checklist, recorded = examine(settings)
    print(checklist.render())
    for item in runs(settings):
        if item.stage.name in recorded:
            print(f"\n# {item}: {settings.root}/{item.stage.script}, with these values")
            try:
                made = change(settings, item, recorded[item.stage.name])
            except ValueError:
                continue  # the checklist says why
            print(quoted(recorded[item.stage.name].rewritten(made)))
    return _verdict(len(checklist.problems))


def _verdict(problems: int) -> int:
    if problems:
        print(f"\n{problems} thing{'s are' if problems > 1 else ' is'} missing: see !! above.")
    else:
        print("\nNothing is missing.")
    return 1 if problems else 0


def train(settings: Settings) -> None:
    """All runs, after the checklist has found nothing missing.

    Raises:
        ReproduceError: something is missing, or a run failed.
    """
    checklist, recorded = examine(settings)
    print(checklist.render(), flush=True)
    if checklist.problems or settings.root is None:
        listed = "; ".join(f"{item.label}: {item.text}" for item in checklist.problems)
        raise ReproduceError(f"nothing was trained, because something is missing. {listed}")
    for item in runs(settings):
        if item.is_done:
            print(f"\n=== {item}: done already, in {item.folder} ===", flush=True)
        else:
            _train_one(settings, settings.root, item, recorded[item.stage.name])
        if item.stage.name == LORA:
            merge(settings, settings.root, item.folder)


def _train_one(settings: Settings, root: Path, item: Run, recorded: Recorded) -> None:
    made = change(settings, item, recorded)
    print(f"\n=== {item} ===\n{quoted(recorded.rewritten(made))}", flush=True)
    if item.stage.name == PRETRAIN and settings.recipe.projector:
        _make_projector(settings, item.seed)
    item.folder.mkdir(parents=True, exist_ok=True)
    log = item.folder.with_name(f"{item.folder.name}.log")
    code = _run(root, item, made, log, words(settings, item))
    if code:
        raise ReproduceError(f"{item}: training failed with exit code {code}; its output is in {log}.")
    if not item.is_done:
        raise ReproduceError(
            f"{item}: training ended, but {item.result} or its weights are not there; its output is in {log}."
        )
    read_stage(item.folder, with_vista=item.arm != BASELINE)


def _run(root: Path, item: Run, made: Change, log: Path, given: list[str]) -> int:
    count = 0

    def watch(line: bytes) -> None:
        nonlocal count
        count += MISMATCH.encode() in line
        if count > MISMATCHES:
            raise ReproduceError(
                f"{item}: stopped after {count} lines of '{MISMATCH}' ({log}): samples lose their labels, because the "
                "conversation template does not fit the tokenizer."
            )

    code = run(root, item.stage.script, given, made, log, watch)
    if count:
        print(f"{count} samples were dropped by a '{MISMATCH}'; the published data causes a few.", flush=True)
    return code


def _make_projector(settings: Settings, seed: int) -> None:
    path = shared_projector(settings, seed)
    if path.is_file():
        return
    import torch

    from ..demo.tiny_checkpoint import write_projector

    base, tower = locate(settings.base), locate(settings.tower)
    if base is None or tower is None:
        raise ReproduceError(f"{settings.base} or {settings.tower} is not there any more.")
    config = read_config(tower)
    vision = config.get("vision_config", config)["hidden_size"]
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_projector(path, int(vision), int(read_config(base)["hidden_size"]))


def merge(settings: Settings, root: Path, lora: Path) -> None:
    """Merge a LoRA adapter with the upstream's own script; evaluation needs whole models.

    Raises:
        ReproduceError: it failed.
    """
    script, target = settings.recipe.merge_script, merged_folder(lora)
    if script is None or is_model(target):
        return
    command = [find_program("python") or "python", script, "--model-path", str(lora)]
    command += ["--model-base", settings.base, "--save-model-path", str(target)]
    print(f"\n=== merging {lora.name} ===\n{quoted(command)}", flush=True)
    done = subprocess.run(command, cwd=root, check=False)
    if done.returncode:
        raise ReproduceError(f"merging {lora} failed with exit code {done.returncode}.")
