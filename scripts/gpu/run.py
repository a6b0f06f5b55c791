"""Run the parts, each in a process of its own, and write results.json, results.md and log.txt. See run.sh."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import torch  # noqa: E402
from findings import FAILED, Findings, Options  # noqa: E402
from limited_process import TIMED_OUT, run_limited  # noqa: E402
from results_page import make_table  # noqa: E402
from timing import environment, keep_memory  # noqa: E402


class Part(NamedTuple):
    """Where a part is, and how many seconds it may take on a GPU; on a CPU ten times as many."""

    module: str
    seconds: float
    function: str = "run"


PARTS = {
    "right": Part("correctness", 170),
    "no-sync": Part("host_reads", 50),
    "fast": Part("cost", 220),
    "real": Part("real_parts", 100, "run_real"),
    "study": Part("real_parts", 500, "run_study"),
    "cpu": Part("cpu_cost", 200),
}


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (default: all; a GPU: all but cpu)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, results.md and log.txt")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--reduced", action="store_true", help="tiny shapes: shows that everything runs")
    parser.add_argument("--minutes", type=float, help="for all parts together (default: 9.3 on a GPU, else no limit)")
    parser.add_argument("--wheels", type=Path, help="folder of LLaVA's wheels, where it is not installed")
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)  # the process of one part
    args = parser.parse_args(given)
    unknown = sorted(set(args.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part is named {', '.join(unknown)}; there are: {', '.join(PARTS)}")
    args.parts = args.parts or [name for name in PARTS if name != "cpu" or args.device == "cpu"]
    return args


def run_part(name: str, args: argparse.Namespace, seconds: float) -> None:
    """Run one part in this process."""
    part, options = PARTS[name], Options(args.device, args.reduced, seconds, args.out, args.wheels)
    if args.device == "cpu":
        torch.set_num_threads(1)
        if not args.reduced:
            keep_memory()
    torch.manual_seed(0)
    getattr(importlib.import_module(part.module), part.function)(
        Findings(args.out / "part.json", name, options), options
    )


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the parts one after another, and return all findings. A part that crashes or is too slow is one."""
    end = time.monotonic() + 60 * (args.minutes or (9.3 if args.device == "cuda" else 600))
    rows: list[dict[str, Any]] = []
    file, log = args.out / "part.json", args.out / "log.txt"
    words = [sys.executable, __file__, "--out", str(args.out), "--device", args.device]
    words += ["--reduced"] * args.reduced + (["--wheels", str(args.wheels)] if args.wheels else [])
    for name in args.parts:
        begin, limit = time.monotonic(), PARTS[name].seconds * (1 if args.device == "cuda" else 10)
        limit = max(1.0, min(limit, end - begin))
        file.write_text("[]")
        code = run_limited([*words, "--only", name, "--minutes", str(limit / 60)], limit + 15, log)
        found = json.loads(file.read_text())
        taken = time.monotonic() - begin
        if code:
            why = f"stopped after {taken:.0f} s" if code == TIMED_OUT else f"ended with exit code {code}; see log.txt"
            found.append({"part": name, "check": "the part itself", "measured": why, "goal": "", "status": FAILED})
        print(f"{name}: {len(found)} checks, {taken:.0f} s", flush=True)
        rows += found
        write(args, rows)
    file.unlink(missing_ok=True)
    return rows


def write(args: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    """Write what is known so far, and return the table."""
    document = {"environment": environment(args.device), "reduced": args.reduced, "rows": rows}
    (args.out / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    table = make_table(document)
    (args.out / "results.md").write_text(table)
    return table


def main(given: list[str] | None = None) -> int:
    """Return 1 when a check failed; a missed goal is in the table only."""
    args = parse(given)
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.only:
        run_part(args.only, args, 60 * args.minutes)
        return 0
    if args.device == "cpu":
        torch.set_num_threads(1)
    (args.out / "log.txt").unlink(missing_ok=True)
    rows = run_all(args)
    print(write(args, rows))
    return int(any(row["status"] == FAILED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
