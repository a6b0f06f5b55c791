"""Part "fast": the objective against a clone and the published arithmetic, and a training step at full size."""

from __future__ import annotations

from typing import Any

import torch
from cases import METHODS, PUBLISHED, REFERENCE, SHAPES, make_case
from findings import Findings, Options
from llava_step import SIZES, Trainee
from timing import alternate, kernels, milliseconds, peak_memory, quartiles, ratios

#: Clones of inputs_embeds that the objective may take, frozen and trained, by device.
CLONES = {"cuda": {False: 2, True: 4}, "cpu": {False: 3, True: 5}}


def run(findings: Findings, options: Options) -> None:
    """Measure the objective at every shape (a CPU: at the one that goals name), then the step."""
    shapes = SHAPES if options.device == "cuda" else (REFERENCE,)
    for shape in ((2, 32, 16),) if options.reduced else shapes:
        for trained in (False, True):
            for method in METHODS:
                name = f"objective {shape} bf16, {'trained' if trained else 'frozen'}, {method}"
                with findings.attempt(name):
                    measure_objective(findings, name, shape, trained, method, options)
    if options.device == "cuda" or options.reduced:
        size = "tiny, LoRA" if options.reduced else "LLaVA-1.5-7B"
        with findings.attempt(f"training step, {size}"):
            measure_step(findings, size, options, goal=0.003, seconds=options.seconds / 2)


def measure_objective(
    findings: Findings, name: str, shape: tuple[int, int, int], trained: bool, method: str, options: Options
) -> None:
    """Add time in clones and against the published arithmetic, and extra memory: above the gradients themselves."""
    device = options.device
    case = make_case(shape, torch.bfloat16, device, trained=trained)

    def ours() -> None:
        case.clear()
        case.ours(method).backward()

    def published() -> None:
        case.clear()
        case.published(method).backward()

    arms: dict[str, Any] = {"ours": ours, "clone": lambda: case.inputs_embeds.detach().clone()}
    if method in PUBLISHED:
        arms["published"] = published
    times = alternate(arms, 3 if options.reduced else 15, device, seconds=6 if device == "cuda" else 60)
    clones = quartiles(ratios(times["ours"], times["clone"]))[1]
    words = f"{clones:.1f} clones ({milliseconds(times['ours']):.2f} ms)"
    if method in PUBLISHED:
        memory = {}
        for arm in ("ours", "published"):
            case.clear()
            memory[arm] = peak_memory(arms[arm], device) - sum(leaf.nbytes for leaf in case.leaves())
        faster = quartiles(ratios(times["published"], times["ours"]))[1]
        words += f", {faster:.1f}x as fast as published, {memory['ours'] / memory['published']:.2%} of its extra memory"
    limit = CLONES[device][trained]
    met = shape != REFERENCE or clones <= limit
    if not met:
        words += f". Profile: {kernels(ours, device)}"
    goal = f"at most {limit} clones" if shape == REFERENCE else ""
    case.clear()
    findings.judge(name, words, goal=goal, met=met, ms={arm: milliseconds(values) for arm, values in times.items()})


def measure_step(findings: Findings, name: str, options: Options, *, goal: float, seconds: float) -> None:
    """Add the overhead in time (median of the pairs, with quartiles) and peak memory of a whole step."""
    device, size = options.device, SIZES[name]
    trainee = Trainee(size, device)
    trainee.fit_batch()
    arms = {"without": trainee.step, "with": trainee.step}
    times = alternate(
        arms, 3 if options.reduced else 40, device, seconds=seconds, prepare=lambda arm: trainee.vista(arm == "with")
    )
    memory = {}
    for arm in arms:
        trainee.vista(arm == "with")
        trainee.optimizer.zero_grad(set_to_none=True)
        memory[arm] = peak_memory(trainee.step, device)
    low, middle, high = (value - 1 for value in quartiles(ratios(times["with"], times["without"])))
    more = memory["with"] / memory["without"] - 1
    alone = milliseconds(alternate({"alone": objective_alone(trainee)}, 9, device, seconds=20)["alone"])
    step = milliseconds(times["without"])
    met = middle <= goal and more <= goal
    words = (
        f"time {middle:+.2%} (quartiles {low:+.2%} to {high:+.2%}, {len(times['with'])} pairs) of {step:.0f} ms, peak "
        f"memory {more:+.2%}; the objective alone {alone / step:.2%}"
    )
    if not met and not options.reduced:
        words += f". Profile of the objective: {kernels(objective_alone(trainee), device)}"
    check = f"training step, {name}, B={trainee.batch_size}, L={size.image + size.text}"
    all_ms = {arm: [milliseconds([value]) for value in values] for arm, values in times.items()}
    findings.judge(check, words, goal=f"at most +{goal:.1%}", met=met, all_ms=all_ms, peak_bytes=memory)


def objective_alone(trainee: Trainee) -> Any:
    """Return a step of the objective on tensors of the trainee's shape: what a step has at least to pay."""
    size = trainee.size
    shape = (trainee.batch_size, size.image + size.text, size.width)
    case = make_case(shape, size.dtype, trainee.device, trained=not size.lora, spans=[(4, 4 + size.image)])

    def step() -> None:
        case.clear()
        case.ours("l2").backward()

    return step
