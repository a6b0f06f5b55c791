"""The command: samples once, every checkpoint in turn, then JSON, table and figure."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...errors import ConfigError
from ...hooks.run_record import versions
from ...logging import say
from .data import load_samples
from .examine import examine
from .figure import draw
from .hosts import LoadOptions
from .plan import Plan
from .results import write_json
from .summary import summary


def run_probe(plan: Plan, output: Path) -> dict[str, Any]:
    """Probe every checkpoint of the plan on the same samples.

    Args:
        output: folder that gets ``probe.json``, ``probe.png`` and ``probe.svg``; made if need be.

    Returns:
        what ``probe.json`` holds.

    Raises:
        VistaError: naming what cannot be done, before the first checkpoint is loaded where that is possible.
    """
    drawable = importlib.util.find_spec("matplotlib") is not None
    if not drawable:
        say("matplotlib is not installed: no figure, only JSON. For the figure: pip install 'llava-vista[plots]'")
    options = _load_options(plan)
    samples = load_samples(plan.data, plan.images, plan.samples, plan.seed)
    for reason, count in samples.passed_over.items():
        say(f"{count} records {reason} are passed over")
    if samples.own_answers:
        say("the data has no answers: every model writes its own (greedy), and is measured on those")
    output.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"llava_vista": __version__, "versions": versions(), "options": plan.record()}
    record["checkpoints"] = [
        examine(path, name, samples, plan, options) for path, name in zip(plan.checkpoints, plan.names, strict=True)
    ]
    write_json(record, output / "probe.json")
    print(summary(record))
    print(f"\nNumbers  {output / 'probe.json'}")
    if drawable:
        draw(record, [output / "probe.png", output / "probe.svg"])
        print(f"Figure   {output / 'probe.png'}, {output / 'probe.svg'}")
    return record


def _load_options(plan: Plan) -> LoadOptions:
    name = plan.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: {error}") from error
    default = "float32" if device.type == "cpu" else "bfloat16"
    return LoadOptions(plan.base, plan.template, device, getattr(torch, plan.dtype or default))
