"""Shared by the benchmarks: arms timed in turn, extra memory, the machine, and the JSON file."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

Arm = Callable[[], Any]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON file (default: %(default)s)")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    made.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: %(default)s)")
    made.add_argument(
        "--rounds", type=int, default=9, help="at most so many rounds over the arms (default: %(default)s)"
    )
    made.add_argument(
        "--memory",
        default="kept",
        choices=["kept", "default"],
        help="CPU: keep what is freed, as a GPU's allocator does (default), or leave it to the system's malloc",
    )
    made.add_argument("--smoke", action="store_true", help="tiny shapes: shows that it runs, measures nothing")
    return made


def processor() -> str:
    """Return the CPU's name; in a virtual machine it may be the vendor only."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def environment(device: str) -> dict[str, Any]:
    """Return where and when a benchmark ran."""
    import llava_vista

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "device_type": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "llava_vista": llava_vista.__version__,
    }


def alternate(arms: Mapping[str, Arm], rounds: int, device: str, *, seconds: float = 60.0) -> dict[str, list[float]]:
    """Time the arms in turn, round after round, so that other load on the machine slows all of them down.

    Args:
        arms: by name.
        rounds: at most so many, at least 3.
        device: "cuda" is synchronised before each reading of the clock.
        seconds: no new round after so long.

    Returns:
        The seconds of each round, by arm. On a CPU this is the process's computing time, so that waiting for a busy
        core does not count.
    """
    for arm in arms.values():  # warm up: allocators, kernels, lazy initialisation
        arm()
    times: dict[str, list[float]] = {name: [] for name in arms}
    end = time.perf_counter() + seconds
    for number in range(max(3, rounds)):
        for name, arm in arms.items():
            times[name].append(seconds_of(arm, device))
        if number >= 2 and time.perf_counter() > end:
            break
    return times


def seconds_of(arm: Arm, device: str) -> float:
    """Return the seconds of one call. A GPU is synchronised before and after."""
    if device == "cpu":
        start = time.process_time()
        arm()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    arm()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def milliseconds(times: list[float]) -> float:
    """Return the median in ms."""
    return round(1000 * statistics.median(times), 4)


def ratio(times: list[float], against: list[float]) -> float:
    """Return the median over the rounds of one arm's time divided by another's in the same round."""
    return round(statistics.median(ours / theirs for ours, theirs in zip(times, against, strict=True)), 4)


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


def file_name(name: str, device: str, smoke: bool) -> str:
    return f"{name}.{device}{'.smoke' if smoke else ''}.json"


def save(name: str, options: argparse.Namespace, rows: list[dict[str, Any]], **more: Any) -> Path:
    """Write ``name.DEVICE.json``: the environment, the options and the rows.

    Returns:
        The file.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = {key: value for key, value in vars(options).items() if key != "out"}
    path: Path = options.out / file_name(name, options.device, options.smoke)
    document = {"benchmark": name, "options": chosen, "environment": environment(options.device), **more, "rows": rows}
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"wrote {path}")
    return path


def start(options: argparse.Namespace) -> None:
    """Set threads, seed and allocator as the options say."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.device == "cpu" and options.memory == "kept" and not keep_memory():
        options.memory = "default"


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
