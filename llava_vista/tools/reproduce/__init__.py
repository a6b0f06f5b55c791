"""``llava-vista reproduce``: the paper's trainings and evaluations, with the upstreams' own launch scripts.

recipes                    which scripts, with what, and the published numbers
stand_in, launch           an upstream's script run with other values, or only asked what it would run
plan                       which runs there are, and where their parts lie
examine                    the checklist: machine, published, checkpoints, data, tokens
train, evaluate            doing it
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Settings

DEFAULT_SEEDS = (42, 43, 44)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``llava-vista reproduce``."""
    from .recipes import FINETUNE, LORA, PRETRAIN, RECIPES

    parser.add_argument("action", choices=("train", "evaluate", "compare"), help="what to do")
    parser.add_argument("--model", choices=RECIPES, default="llava-7b", help="default: llava-7b")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=(PRETRAIN, FINETUNE, LORA),
        default=[PRETRAIN, FINETUNE],
        help="default: pretrain finetune",
    )
    parser.add_argument("--arms", nargs="+", choices=("baseline", "vista"), default=["baseline", "vista"])
    parser.add_argument("--method", default="l2", help="VISTA's estimator (default: l2); names the arm's folder")
    parser.add_argument("--weight", type=float, default=1.0, help="VISTA's weight (default: 1, as published)")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(DEFAULT_SEEDS), help="default: 42 43 44")
    parser.add_argument("--root", help="the upstream's checkout (default: LLAVA_ROOT or TINYLLAVA_ROOT)")
    parser.add_argument("--output", required=True, help="folder for everything that is made")
    parser.add_argument("--data-root", help="where LLaVA's data lie (default: playground/data in the checkout)")
    parser.add_argument("--base", help="base language model, a folder or hub id (default: the published one)")
    parser.add_argument("--tower", help="vision tower, a folder or hub id (default: the published one)")
    parser.add_argument("--gpus", type=int, help="GPUs of this machine to use (default: all)")
    parser.add_argument("--per-device-batch-size", type=int, help="default: the upstream's, at most")
    parser.add_argument("--tasks", nargs="+", default=[], help="evaluate: only these of the paper's tasks")
    parser.add_argument("--dry-run", action="store_true", help="print the checklist and the exact command lines")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for; returns the exit code (of a dry run: 1 when something is missing)."""
    settings = read_settings(args)
    if args.action == "evaluate":
        from .evaluate import evaluate

        return evaluate(settings, args.tasks, args.dry_run)
    if args.action == "compare":
        return _compare(settings, args.dry_run)
    from .train import show, train

    if args.dry_run:
        return show(settings)
    train(settings)
    return 0


def _compare(settings: Settings, dry_run: bool) -> int:
    from ...cli import main
    from .evaluate import compare_words
    from .launch import quoted

    words = compare_words(settings)
    print(quoted(["llava-vista", *words]), flush=True)
    return 0 if dry_run else main(words)


def read_settings(args: argparse.Namespace) -> Settings:
    """What was chosen, with the defaults filled in."""
    from .machine import gpus
    from .plan import BASELINE, Settings
    from .recipes import RECIPES

    recipe = RECIPES[args.model]
    named = args.root or os.environ.get(recipe.root_variable)
    root = Path(named).resolve() if named else None
    data = Path(args.data_root).resolve() if args.data_root else _data_below(root or Path(f"${recipe.root_variable}"))
    vista = f"vista-{args.method}" if args.weight == 1 else f"vista-{args.method}-{args.weight:g}"
    flags = ("--vista", "--vista_method", args.method, "--vista_weight", f"{args.weight:g}")
    return Settings(
        recipe=recipe,
        root=root,
        output=Path(args.output).resolve(),
        data_root=data,
        base=args.base or recipe.base,
        tower=args.tower or recipe.tower,
        seeds=tuple(args.seeds),
        arms=tuple(BASELINE if arm == BASELINE else vista for arm in args.arms),
        stages=tuple(args.stages),
        gpus=args.gpus or (1 if recipe.cpu else max(len(gpus()), 1)),
        per_device=args.per_device_batch_size,
        flags=flags,
    )


def _data_below(root: Path) -> Path:
    """Where LLaVA's README puts the data."""
    return root / "playground" / "data"
