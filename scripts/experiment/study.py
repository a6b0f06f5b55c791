"""The study: choose weights, then run what was asked for. Stop it at any time; the same command goes on.

python scripts/experiment/study.py [--reduced] [--headline | --sweep] [--studies NAME ...] [--seeds N] [--workers N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path

from execute import execute, result_path
from settings import METHODS, Run, Sizes
from studies import ON_CPU, STUDIES, choose, chosen_weights

DEFAULT_CHOICE_SEEDS = 2
#: Paired seeds, where --seeds does not say.
SEEDS = {"headline": 10, "llava": 5, "large": 5}
SWEEP_SEEDS, REDUCED_SEEDS = 3, 2
HERE = Path(__file__).resolve().parent
#: A few steps of a tiny model: shows that the machinery works, and nothing else.
REDUCED = Sizes(
    hidden=32, layers=1, heads=2, text_steps=4, text_batch=4, pretrain_steps=5, finetune_steps=5, batch=4, scenes=4
)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reduced", action="store_true", help="a few steps of each run: does the machinery work?")
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--headline", action="store_true", help="the four arms on both paths (default)")
    scale.add_argument("--sweep", action="store_true", help="the headline, then the fast path's sweeps")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, help="these instead")
    parser.add_argument(
        "--seeds",
        type=int,
        help="paired seeds (default 10 on the fast path, 5 on the real one and for large, 3 for sweeps; 2 reduced)",
    )
    parser.add_argument(
        "--choice-seeds", type=int, default=DEFAULT_CHOICE_SEEDS, help="seeds to choose weights on (default 2)"
    )
    parser.add_argument(
        "--finetune-steps", type=int, metavar="N", help=f"steps of stage 2 (default {Sizes().finetune_steps})"
    )
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each (default 1)")
    parser.add_argument("--device", default="cpu", help="of the fast path's models (default cpu); large is for cuda")
    parser.add_argument("--work", type=Path, help="set-ups and logs (default: work/ beside this file)")
    parser.add_argument("--results", type=Path, help="folder of the JSON files (default: results/ beside this file)")
    parser.add_argument("--list", action="store_true", help="only say what is done and what is left")
    args = parser.parse_args(given)
    args.work = (args.work or HERE / ("work-reduced" if args.reduced else "work")).resolve()
    args.results = (args.results or (args.work / "results" if args.reduced else HERE / "results")).resolve()
    if not args.studies:
        args.studies = list(ON_CPU) if args.sweep else ["headline", "llava"]
    return args


def sizes_of(args: argparse.Namespace) -> Sizes:
    sizes = REDUCED if args.reduced else Sizes()
    return replace(sizes, finetune_steps=args.finetune_steps) if args.finetune_steps else sizes


def seeds_of(study: str, args: argparse.Namespace) -> int:
    if args.seeds:
        return int(args.seeds)
    return REDUCED_SEEDS if args.reduced else SEEDS.get(study, SWEEP_SEEDS)


def carry_out(title: str, runs: Sequence[Run], args: argparse.Namespace) -> None:
    """Do the runs whose results are missing; say how far it is and how long it takes yet."""
    left = [run for run in dict.fromkeys(runs) if not result_path(args.results, run).exists()]
    print(f"{title}: {len(runs) - len(left)} of {len(runs)} runs are done", flush=True)
    if args.list or not left:
        return
    begin = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.workers, mp_context=context, initializer=_quiet) as pool:
        jobs = {pool.submit(execute, run, args.work, args.results, args.device): run for run in left}
        try:
            for count, job in enumerate(as_completed(jobs), start=1):
                job.result()
                elapsed = time.perf_counter() - begin
                rest = elapsed / count * (len(left) - count)
                print(
                    f"{title}: {count} of {len(left)}, {jobs[job].name}; {elapsed / 60:.1f} min so far, "
                    f"about {rest / 60:.1f} min left",
                    flush=True,
                )
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _quiet() -> None:
    """Workers: one thread each, and a progress bar for every step would fill the logs."""
    os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
    os.environ["TQDM_DISABLE"] = "1"


def main(given: Sequence[str] | None = None) -> int:
    args = arguments(given)
    sizes = sizes_of(args)
    if args.device == "cpu" and not args.reduced and not {*args.studies} <= {*ON_CPU}:
        print("large takes days on a CPU; --device cuda runs it on a GPU", flush=True)
    carry_out("choice of weights", choose(args.choice_seeds, sizes), args)
    try:
        weights = chosen_weights(args.results, args.choice_seeds, sizes)
    except FileNotFoundError as error:
        print(f"the weights are not chosen yet ({error.filename} is missing)")
        return 1
    print(
        "chosen on validation scenes: " + ", ".join(f"{method} {weights[method]:g}" for method in METHODS), flush=True
    )
    for study in args.studies:
        carry_out(study, STUDIES[study](seeds_of(study, args), sizes, weights), args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
