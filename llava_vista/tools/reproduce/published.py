"""The upstream's own launch script, held against what was published."""

from __future__ import annotations

import json
from pathlib import Path

from .checklist import Checklist
from .launch import Recorded
from .plan import Settings, batch
from .recipes import Stage


def check_published(checklist: Checklist, settings: Settings, stage: Stage, recorded: Recorded, root: Path) -> None:
    """Every published number, the global batch size, and the ZeRO stage."""
    label = f"{stage.name} as published"
    flags, wrong = recorded.flags, []
    for name, value in stage.published.items():
        given = flags.get(name)
        try:
            same = given is not None and float(given) == value
        except ValueError:
            same = False
        if not same:
            wrong.append(f"{name} is {given or 'not given'}, published {value:g}")
    zero = _zero_stage(root / flags["deepspeed"]) if "deepspeed" in flags else None
    if stage.zero is not None and zero != stage.zero:
        wrong.append(f"ZeRO stage is {zero}, published {stage.zero}")
    try:
        per_device, steps = batch(settings, stage, recorded)
    except (ValueError, KeyError) as error:
        checklist.missing(label, f"global batch size: {error}.")
    else:
        checklist.ok(
            label,
            f"global batch size {stage.batch} = {per_device} per device x {settings.gpus} "
            f"{'processes' if settings.recipe.cpu else 'GPUs'} x {steps} accumulated",
        )
    if wrong:
        checklist.missing(label, f"{root / stage.script}: {'; '.join(wrong)}. Is this another version of the script?")
    else:
        numbers = ", ".join(f"{name} {value:g}" for name, value in stage.published.items())
        checklist.ok(label, f"{numbers}{f', ZeRO-{zero}' if zero is not None else ''}, in the upstream's own script")


def _zero_stage(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["zero_optimization"]["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
