"""Run the parts, each in a process of its own, and write results.json, results.md and log.txt. See run.sh."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from findings import FAILED, Findings, Options
from results_page import make_table


class Part(NamedTuple):
    """Where a part is, and how many seconds it may take on a GPU; on a CPU ten times as many."""

    module: str
    seconds: float


PARTS = {
    "right": Part("correctness", 190),
    "no-sync": Part("host_reads", 40),
    "fast": Part("cost", 210),
    "real": Part("real_parts", 100),
    "cpu": Part("cpu_cost", 60),
    "study": Part("large_arm", 590),
}
#: Seconds of a whole run on a GPU: the last part has what the others have left.
WHOLE = 600


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = f"{', '.join(PARTS)} (default: all; on a GPU all but cpu)"
    parser.add_argument("parts", nargs="*", metavar="part", help=names)
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, results.md and log.txt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--reduced", action="store_true", help="tiny shapes: shows that everything runs")
    parser.add_argument("--wheels", type=Path, help="folder of LLaVA's wheels, where it is not installed")
    parser.add_argument("--only", nargs=2, metavar=("PART", "SECONDS"), help=argparse.SUPPRESS)  # the process of a part
    args = parser.parse_args(given)
    unknown = sorted(set(args.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part is named {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    args.parts = args.parts or [name for name in PARTS if name != "cpu" or args.device == "cpu"]
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def describe_machine(device: str) -> dict[str, Any]:
    """Return where, when and with what a run is made."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def run_limited(words: list[str], seconds: float, log: Path) -> int | None:
    """Run a command, its output appended to ``log``; return its exit code, None when it was killed as too slow."""
    with log.open("a") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:  # also what the part itself started
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the parts one after another, and return all findings. A part that crashes or is too slow is one."""
    rows: list[dict[str, Any]] = []
    file, log = args.out / "part.json", args.out / "log.txt"
    log.unlink(missing_ok=True)
    words = [sys.executable, __file__, "--out", str(args.out), "--device", args.device]
    words += ["--reduced"] * args.reduced + (["--wheels", str(args.wheels)] if args.wheels else [])
    start = time.monotonic()
    for name in args.parts:
        begin, limit = time.monotonic(), PARTS[name].seconds
        if args.device == "cuda":
            limit = max(20, min(limit, WHOLE - (begin - start)))
        else:
            limit *= 10
        file.write_text("[]")
        code = run_limited([*words, "--only", name, str(limit)], limit, log)
        found, taken = json.loads(file.read_text()), time.monotonic() - begin
        if code != 0:
            why = f"killed after {taken:.0f} s" if code is None else f"exit code {code}; see log.txt"
            found.append({"part": name, "check": "the part itself", "measured": why, "goal": "", "status": FAILED})
        print(f"{name}: {len(found)} checks, {taken:.0f} s", flush=True)
        rows += found
        document = {"environment": describe_machine(args.device), "reduced": args.reduced, "rows": rows}
        (args.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
        (args.out / "results.md").write_text(make_table(document))
    file.unlink()
    return rows


def main(given: list[str] | None = None) -> int:
    """Return 1 when a check failed; a missed goal is in the table only."""
    args = parse(given)
    if args.device == "cpu":
        torch.set_num_threads(1)
    if args.only:
        name, seconds = args.only
        torch.manual_seed(0)
        options = Options(args.device, args.reduced, float(seconds), args.wheels)
        importlib.import_module(PARTS[name].module).run(Findings(args.out / "part.json", name, args.reduced), options)
        return 0
    rows = run_all(args)
    print((args.out / "results.md").read_text())
    return int(any(row["status"] == FAILED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
