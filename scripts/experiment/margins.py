"""Is a falling VISTA loss about the image? Stage 2 with each estimator at weight 1, and observed.

Arms of a seed share scenes, stage 1 (cross-entropy alone) and the order of samples. Weight 0 is one training for all
estimators. ``python scripts/experiment/margins.py`` writes MARGINS.md beside it.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import stages
import torch
from encode import Encoder
from model import build_model, make_batch
from prepare import Setup, prepare
from settings import REDUCED, Run, Sizes

from llava_vista import VistaConfig, attach
from llava_vista.attach.observation import Recorder
from llava_vista.objective.head import AlignmentHead

HERE = Path(__file__).resolve().parent
METHODS = ("l2", "cosine", "infonce")
#: Steps of stage 2, with LLaVA's own schedule.
STEPS = 360
#: Steps that the first and the last value are the mean of.
WINDOW = 20
#: By method and weight: loss, margin, own first and its chance of every step.
Log = dict[tuple[str, int], list[list[float]]]


def finetune(model: Any, setup: Setup, run: Run, methods: Sequence[str], weight: int) -> Log:
    """Train stage 2 with the first method, and measure the batches of every step with all of them."""
    recorder, heads = Recorder(), {name: AlignmentHead(VistaConfig(method=name)) for name in methods}
    handle = attach(model, VistaConfig(method=methods[0], weight=weight))
    handle.observer.add_listener(recorder)
    log: Log = {(name, weight): [] for name in methods}
    rows = [Encoder(setup.tokenizer).v1(record) for record in setup.records["finetune"]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=run.sizes.finetune_rate, weight_decay=0.0)
    model.train()
    for step, part in enumerate(stages.batches(rows, run.sizes.batch, run.seed)):
        factor = stages.cosine_with_warmup(step, run.sizes.finetune_steps)
        optimizer.param_groups[0]["lr"] = run.sizes.finetune_rate * factor
        loss = model(**make_batch(part, setup.features, model)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seen: Any = recorder.last
        with torch.no_grad():
            for name, head in heads.items():
                terms = head(seen.inputs_embeds, seen.last_hidden_state, seen.layout)
                log[name, weight].append([float(value) for value in (terms.loss, *terms.own[:3])])
    return log


def train_seed(run: Run, work: Path) -> Log:
    """Train stage 1 once, and stage 2 from there with each estimator and with none."""
    setup = prepare(run, work)
    torch.manual_seed(run.seed)
    model = build_model(setup)
    rows = [Encoder(setup.tokenizer).plain(record) for record in setup.records["pretrain"]]
    stages.train_stage(model, setup, run, rows, stages.cosine_with_warmup, lambda step: False, projector_only=True)
    log: Log = {}
    for methods, weight in (*(([name], 1) for name in METHODS), (METHODS, 0)):
        log |= finetune(copy.deepcopy(model), setup, run, methods, weight)
    return log


def cell(logs: Sequence[Log], arm: tuple[str, int], column: int, form: str) -> str:
    """Return "first -> last", means over seeds, and the seeds' range of the last."""
    values = [[row[column] for row in log[arm]] for log in logs]
    first, last = mean(mean(v[:WINDOW]) for v in values), [mean(v[-WINDOW:]) for v in values]
    return f"{first:{form}} -> {mean(last):{form}} ({min(last):{form}} to {max(last):{form}})"


def write_page(logs: Sequence[Log], file: Path) -> None:
    """Write what was found."""
    chance = mean(row[3] for log in logs for rows in log.values() for row in rows)
    words = [
        "# Is a falling VISTA loss about the image?\n",
        f"Written by `margins.py`: stage 2 on a toy, {STEPS} steps, {len(logs)} seeds. Cells: means of the first "
        f"and of the last\n{WINDOW} steps, with the seeds' range of the last. Weight 0: cross-entropy alone, observed."
        f" By chance `vista_own_first` is\n{chance:.3f}. `llava_vista/objective/THEORY.md` says what they are.\n",
        "| estimator | weight | `vista_loss` | `vista_margin` | `vista_own_first` |\n|---|---|---|---|---|",
    ]
    for arm in ((method, weight) for method in METHODS for weight in (1, 0)):
        cells = [cell(logs, arm, column, form) for column, form in enumerate((".3f", ".1e", ".3f"))]
        words.append(f"| {arm[0]} | {arm[1]} | {' | '.join(cells)} |")
    file.write_text("\n".join(words) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reduced", action="store_true", help="a few steps: does the machinery work?")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="set-ups (default: work/ beside this file)")
    parser.add_argument("--output", type=Path, default=HERE / "MARGINS.md")
    args = parser.parse_args()
    sizes = replace(Sizes(), **{**REDUCED, "finetune_steps": 4} if args.reduced else {"finetune_steps": STEPS})
    runs = [Run(seed, sizes=sizes) for seed in range(args.seeds)]
    write_page([train_seed(run, args.work) for run in runs], args.output)
