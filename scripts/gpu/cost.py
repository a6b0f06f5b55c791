"""Part "fast": the objective against a clone and the published arithmetic, and a training step at full size."""

from __future__ import annotations

from typing import Any

import torch
from cases import METHODS, PUBLISHED, REFERENCE, SHAPES, make_case
from findings import Findings, Options
from llava_step import SIZES, Size, Trainee
from timing import alternate, kernels, milliseconds, peak_memory, ratio

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
            measure_step(findings, size, options, goal=0.003)


def measure_objective(
    findings: Findings, name: str, shape: tuple[int, int, int], trained: bool, method: str, options: Options
) -> None:
    """Add the time of forward and backward, in clones and against the published arithmetic."""
    device = options.device
    case = make_case(shape, torch.bfloat16, device, trained=trained)
    arms: dict[str, Any] = {"ours": lambda: case.step(case.ours, method)}
    if method in PUBLISHED:
        arms["published"] = lambda: case.step(case.published, method)
    clone = {"clone": lambda: case.inputs_embeds.detach().clone()}
    rounds = 3 if options.reduced else 15
    times = alternate(arms | clone, rounds, device, seconds=6 if device == "cuda" else 60)
    clones = ratio(times["ours"], times["clone"])[1]
    words = f"{clones:.1f} clones ({milliseconds(times['ours']):.2f} ms)"
    if method in PUBLISHED:
        words += f", {ratio(times['published'], times['ours'])[1]:.1f}x as fast as published"
    limit, is_judged = CLONES[device][trained], shape == REFERENCE
    if is_judged and clones > limit:
        words += f". Profile: {kernels(arms['ours'], device)}"
    ms = {arm: milliseconds(values) for arm, values in times.items()}
    goal = f"at most {limit} clones" if is_judged else ""
    findings.judge(name, words, goal=goal, met=not is_judged or clones <= limit, ms=ms)


def time_step(size: Size, options: Options, seconds: float) -> tuple[Trainee, dict[str, list[float]]]:
    """Return the times of whole steps "without" and "with" VISTA, in turn, and their trainee."""
    trainee, rounds = Trainee(size, options.device), 3 if options.reduced else 400
    arms = {"without": trainee.step, "with": trainee.step}
    times = alternate(arms, rounds, options.device, seconds=seconds, prepare=lambda arm: trainee.vista(arm == "with"))
    return trainee, times


def measure_step(findings: Findings, name: str, options: Options, *, goal: float) -> None:
    """Add the overhead of a whole step, in time (pairs, half of the part's seconds) and in a GPU's peak memory."""
    device, size = options.device, SIZES[name]
    trainee, times = time_step(size, options, options.seconds / 2)
    low, middle, high = (value - 1 for value in ratio(times["with"], times["without"]))
    step, more, memory = milliseconds(times["without"]), 0.0, "not measured on a CPU"
    if device == "cuda":
        peaks = []
        for on in (False, True):
            trainee.vista(on)
            trainee.optimizer.zero_grad(set_to_none=True)
            peaks.append(peak_memory(trainee.step))
        more = peaks[1] / peaks[0] - 1
        memory = f"{more:+.2%} of {peaks[0] / 2**30:.1f} GiB"
    shape = (trainee.batch_size, size.image + size.text, size.width)
    case = make_case(shape, size.dtype, device, trained=not size.lora, spans=[(4, 4 + size.image)])
    alone = alternate({"alone": lambda: case.step(case.ours, "l2")}, 9, device, seconds=20)["alone"]
    words = (
        f"time {middle:+.2%} (quartiles {low:+.2%} to {high:+.2%}, {len(times['with'])} pairs) of {step:.0f} ms, peak "
        f"memory {memory}; the objective alone {milliseconds(alone) / step:.2%}"
    )
    met = middle <= goal and more <= goal
    if not met and not options.reduced:
        words += f". Profile of the objective: {kernels(lambda: case.step(case.ours, 'l2'), device)}"
    check = f"training step, {name}, B={shape[0]}, L={shape[1]}"
    findings.judge(check, words, goal=f"at most +{goal:.1%}", met=met, seconds=times)
