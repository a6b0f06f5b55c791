"""Times of arms in turn, peak memory, and what a profile names."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Arm = Callable[[], Any]


def seconds_of(arm: Arm, device: str) -> float:
    """Return the seconds of one call: on a CPU those of computing, so that waiting for a busy core does not count."""
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    start = clock()
    arm()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def alternate(
    arms: Mapping[str, Arm], rounds: int, device: str, *, seconds: float = 60.0, prepare: Callable[[str], Any] = str
) -> dict[str, list[float]]:
    """Time the arms in turn, A B, B A, ..., so that other load on the machine slows all of them down.

    Args:
        arms: by name.
        rounds: at most so many; no new one after ``seconds``.
        prepare: called with the arm's name before it is timed.

    Returns:
        The seconds of each round, by arm.
    """
    for name, arm in arms.items():  # warm up: allocators, kernels, lazy initialisation
        prepare(name)
        arm()
    times: dict[str, list[float]] = {name: [] for name in arms}
    end = time.perf_counter() + seconds
    for number in range(rounds):
        for name in list(arms) if number % 2 == 0 else reversed(arms):
            prepare(name)
            times[name].append(seconds_of(arms[name], device))
        if time.perf_counter() > end:
            break
    return times


def ratio(times: list[float], against: list[float]) -> tuple[float, float, float]:
    """Return the quartiles of one arm's time divided by another's of the same round; the median is the second."""
    return quartiles([ours / theirs for ours, theirs in zip(times, against, strict=True)])


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the quartiles."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4], statistics.median(ordered), ordered[-1 - len(ordered) // 4]


def milliseconds(times: list[float]) -> float:
    """Return the median in ms."""
    return round(1000 * statistics.median(times), 4)


def peak_memory(arm: Arm) -> int:
    """Return the peak of allocated bytes of a GPU while the arm runs, above those allocated before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    arm()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def kernels(arm: Arm, device: str) -> str:
    """Return the six operations (on a GPU: kernels) that take most of the arm's time, with their shares."""
    with profile(activities=[ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU]) as recorded:
        seconds_of(arm, device)
    wanted = torch.autograd.DeviceType.CUDA if device == "cuda" else torch.autograd.DeviceType.CPU
    clock = f"self_{'device' if device == 'cuda' else 'cpu'}_time_total"
    taken = {event.key: getattr(event, clock) for event in recorded.key_averages() if event.device_type == wanted}
    total = sum(taken.values()) or 1
    first = sorted(taken, key=taken.__getitem__, reverse=True)[:6]
    return ", ".join(f"`{name[:60]}` {taken[name] / total:.0%}" for name in first)
