"""Times of arms in turn, peak memory, and the machine."""

from __future__ import annotations

import ctypes
import datetime
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.profiler import ProfilerActivity, profile

import llava_vista

Arm = Callable[[], Any]


def environment(device: str) -> dict[str, Any]:
    """Return where, when and with what a run is made. A virtual machine may name only the vendor of its CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else (names or [platform.machine()])[0],
        "device_type": device,
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "llava_vista": llava_vista.__version__,
    }


def seconds_of(arm: Arm, device: str) -> float:
    """Return the seconds of one call: on a CPU those of computing, so that waiting for a busy core does not count."""
    if device == "cpu":
        start = time.process_time()
        arm()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    arm()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def alternate(
    arms: Mapping[str, Arm], rounds: int, device: str, *, seconds: float = 60.0, prepare: Callable[[str], Any] = str
) -> dict[str, list[float]]:
    """Time the arms in turn, A B, B A, ..., so that other load on the machine slows all of them down.

    Args:
        arms: by name.
        rounds: at most so many, at least 3 where ``seconds`` allow.
        seconds: no new round after so long.
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


def ratios(times: list[float], against: list[float]) -> list[float]:
    """Return one arm's time divided by another's of the same round."""
    return [ours / theirs for ours, theirs in zip(times, against, strict=True)]


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Return the quartiles; the median is the second."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return ordered[last // 4], statistics.median(ordered), ordered[math.ceil(last * 3 / 4)]


def milliseconds(times: list[float]) -> float:
    """Return the median in ms."""
    return round(1000 * statistics.median(times), 4)


def slope(points: Mapping[float, float]) -> float:
    """Return the least-squares slope of log y over log x: 1 is linear growth."""
    logs = [[math.log(value) for value in values] for values in (points.keys(), points.values())]
    return statistics.linear_regression(*logs).slope


def peak_memory(arm: Arm, device: str) -> int:
    """Return the peak of allocated bytes while the arm runs, above those allocated before."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        arm()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        arm()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = highest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


def kernels(arm: Arm, device: str, most: int = 6) -> str:
    """Return the operations (on a GPU: kernels) that take most of the arm's time, with their shares."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    with profile(activities=[ProfilerActivity.CPU, activity]) as recorded:
        arm()
        if device == "cuda":
            torch.cuda.synchronize()
    events = recorded.key_averages()
    if device == "cuda":
        events = [event for event in events if event.device_type == torch.autograd.DeviceType.CUDA]
    taken = {
        event.key: getattr(event, f"self_{'device' if device == 'cuda' else 'cpu'}_time_total") for event in events
    }
    total = sum(taken.values()) or 1
    first = sorted(taken, key=taken.__getitem__, reverse=True)[:most]
    return ", ".join(f"`{name[:60]}` {taken[name] / total:.0%}" for name in first)


def keep_memory() -> bool:
    """Make glibc keep freed memory, as the allocator of a GPU does. Return False without glibc.

    Otherwise a large tensor is sometimes mapped again page by page, which takes several times as long as writing it:
    times of the same operation scatter.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is None:
        return False
    no_mapping, no_trimming = tune(-4, 0), tune(-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD
    return bool(no_mapping and no_trimming)
