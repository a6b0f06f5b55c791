"""Is a falling VISTA loss about the image? Stage 2 with each estimator at weight 1, and observed (weight 0).

Arms of a seed share scenes, stage 1 (cross-entropy alone) and the order of samples. ``python margins.py`` writes
MARGINS.md beside it.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from encode import Encoder
from model import build_model
from prepare import prepare
from settings import REDUCED, Arm, Run, Sizes
from stages import cosine_with_warmup, train_stage

HERE = Path(__file__).resolve().parent
ARMS = [Arm(method, weight) for method in ("l2", "cosine", "infonce") for weight in (1.0, 0.0)]
#: Steps of stage 2, with LLaVA's own schedule, and of the first and the last value's mean.
STEPS, WINDOW = 360, 20
#: VISTA's metrics of every step, by arm.
Logs = dict[Arm, list[dict[str, float]]]


def train_seed(run: Run, work: Path) -> Logs:
    """Train stage 1 once, and stage 2 from there with each arm."""
    setup, logs = prepare(run, work), Logs()
    encoder = Encoder(setup.tokenizer)
    rows = {"pretrain": list(map(encoder.plain, setup.records["pretrain"])),
            "finetune": list(map(encoder.v1, setup.records["finetune"]))}  # fmt: skip
    torch.manual_seed(run.seed)
    model: Any = build_model(setup)
    train_stage(model, setup, run, rows["pretrain"], cosine_with_warmup, lambda step: False, projector_only=True)
    for arm in ARMS:
        train_stage(copy.deepcopy(model), setup, replace(run, arm=arm), rows["finetune"], cosine_with_warmup,
                    lambda step: False, projector_only=False, log=logs.setdefault(arm, []))  # fmt: skip
    return logs


def cell(seeds: Sequence[Logs], arm: Arm, key: str, form: str) -> str:
    """Return "first -> last", means over seeds, and the seeds' range of the last."""
    values = [[step[key] for step in logs[arm]] for logs in seeds]
    first, last = mean(mean(v[:WINDOW]) for v in values), [mean(v[-WINDOW:]) for v in values]
    return f"{first:{form}} -> {mean(last):{form}} ({min(last):{form}} to {max(last):{form}})"


def page(seeds: Sequence[Logs]) -> str:
    chance = mean(step["vista_own_first_chance"] for logs in seeds for log in logs.values() for step in log)
    lines = [
        "# Is a falling VISTA loss about the image?\n",
        f"Written by `margins.py`: stage 2 on a toy, {STEPS} steps, {len(seeds)} seeds. A cell is the mean of the",
        f"first and of the last {WINDOW} steps, with the seeds' range of the last. Weight 0 is cross-entropy alone,",
        f"observed. By chance `vista_own_first` is {chance:.3f}. See `llava_vista/objective/THEORY.md`.\n",
        "| estimator | weight | `vista_loss` | `vista_margin` | `vista_own_first` |\n|---|---|---|---|---|",
    ]
    for arm in ARMS:
        cells = [cell(seeds, arm, f"vista_{key}", form) for key, form in COLUMNS.items()]
        lines.append(f"| {arm.method} | {arm.weight:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


COLUMNS = {"loss": ".3f", "margin": ".1e", "own_first": ".3f"}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reduced", action="store_true", help="a few steps: does the machinery work?")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="set-ups (default: work/ beside this file)")
    parser.add_argument("--output", type=Path, default=HERE / "MARGINS.md")
    args = parser.parse_args()
    sizes = replace(Sizes(), **REDUCED if args.reduced else {"finetune_steps": STEPS})
    args.output.write_text(page([train_seed(Run(seed, sizes=sizes), args.work) for seed in range(args.seeds)]))
