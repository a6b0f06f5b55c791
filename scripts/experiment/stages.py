"""LLaVA-1.5's two stages in one process, on transformers' own Llava and known tower features.

Optimizer, clipping, what trains and what a sample looks like are those of LLaVA's launch scripts. What is not the same:
the order of samples (LLaVA groups by length), and the tower's precision (float16 there, float32 here).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from encode import Row
from model import base_of, make_batch
from prepare import Setup
from settings import Run
from torch import nn

from llava_vista import VistaConfig, attach

WARMUP = 0.03


def cosine_with_warmup(step: int, steps: int) -> float:
    """Factor on the learning rate, as transformers' ``cosine`` schedule."""
    warmup = math.ceil(WARMUP * steps)
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def constant_with_warmup(step: int, steps: int) -> float:
    """Factor on the learning rate, as transformers' ``constant_with_warmup`` schedule."""
    return min(1.0, step / max(1, math.ceil(WARMUP * steps)))


def batches(rows: Sequence[Row], size: int, seed: int) -> Iterator[list[Row]]:
    """All rows once, in an order that depends on the seed alone."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(rows), size):
        yield [rows[index] for index in order[start : start + size]]


def train_stage(
    model: Any,
    setup: Setup,
    run: Run,
    rows: Sequence[Row],
    factor: Callable[[int, int], float],
    ends: Callable[[int], bool],
    *,
    projector_only: bool,
    log: list[dict[str, float]] | None = None,
) -> None:
    """Train one stage.

    Args:
        rows: its samples, each seen once.
        factor: on the learning rate, of the step and their number.
        ends: called with 0 before the first step and with its number after each; true ends the stage.
        projector_only: LLaVA's first stage.
        log: gets VISTA's metrics of every step.
    """
    rate = run.sizes.pretrain_rate if projector_only else run.sizes.finetune_rate
    steps = math.ceil(len(rows) / run.sizes.batch)
    model.requires_grad_(not projector_only)
    base_of(model).multi_modal_projector.requires_grad_(True)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))
    options = run.arm.options()
    handle = attach(model, VistaConfig(**options)) if options else None
    model.train()
    ends(0)
    for step, part in enumerate(batches(rows, run.sizes.batch, run.seed), start=1):
        loss = model(**make_batch(part, setup.features, model)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if handle and log is not None:
            log.append(handle.metrics())
        if ends(step):
            break
    if handle:
        handle.detach()
    model.requires_grad_(True)
