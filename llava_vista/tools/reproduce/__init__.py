"""``llava-vista reproduce``: the paper's trainings and evaluations, with the upstreams' own launch scripts."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ...config import VistaConfig
from ...errors import ReproduceError
from ..kit.argument_types import count, seed

if TYPE_CHECKING:
    from .planned_trainings import ReproduceSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``llava-vista reproduce``."""
    from .recipes import FINETUNE, LORA, PRETRAIN, RECIPES

    parser.epilog = "Example:\n  LLAVA_ROOT=path/to/LLaVA llava-vista reproduce train --output runs --dry-run"
    add = parser.add_argument
    actions, arms, stages = ("train", "evaluate", "compare"), ("baseline", "vista"), (PRETRAIN, FINETUNE, LORA)
    add("action", choices=actions, help="train both arms, evaluate the models, or compare arms that are there")
    add("--model", choices=RECIPES, default="llava-7b", help="a model of the paper")
    known = f"of {', '.join(stages)} (default: pretrain finetune)"
    add("--stages", nargs="+", choices=stages, default=stages[:2], metavar="STAGE", help=known)
    add("--arms", nargs="+", choices=arms, default=arms, metavar="ARM", help="of baseline, vista (default: both)")
    add("--method", default="l2", help="VISTA's estimator, which names the arm's folder")
    add("--weight", type=float, default=1.0, help="VISTA's weight, as published")
    each = "one training of each arm per seed (default: 42 43 44)"
    add("--seeds", nargs="+", type=seed, default=[42, 43, 44], metavar="SEED", help=each)
    add("--root", help="the upstream's checkout (default: LLAVA_ROOT or TINYLLAVA_ROOT)")
    add("--output", required=True, help="folder for everything that is made")
    add("--data-root", help="folder of LLaVA's data (default: playground/data in the checkout)")
    add("--base", help="base language model, a folder or hub id (default: the published one)")
    add("--tower", help="vision tower, a folder or hub id (default: the published one)")
    add("--gpus", type=count, metavar="N", help="GPUs of this machine to use (default: all)")
    add("--per-device-batch-size", type=count, metavar="N", help="of a GPU (default: the upstream's, at most)")
    add("--tasks", nargs="+", default=[], help="evaluate: only these (default: all of the paper's)")
    add("--include-path", help="evaluate: a folder of further lmms-eval tasks, for --tasks to name")
    add("--dry-run", action="store_true", help="print checklist, cost and commands; run nothing")


def run(args: argparse.Namespace) -> int:
    """Do what was asked for, and return the exit code: of a dry run 1 when something is missing.

    Raises:
        ReproduceError, ConfigError: an option is wrong (before anything else), something is missing, or a step failed.
    """
    from .launch_script import quoted
    from .paper_evaluation import check_tasks, compare_words, evaluate
    from .training_sequence import train

    settings, tasks = read_settings(args), check_tasks(args.tasks, args.include_path)
    if args.action == "evaluate":
        return evaluate(settings, tasks, args.include_path, args.dry_run)
    if args.action == "compare":
        words = compare_words(settings)
        print(quoted(["llava-vista", *words]), flush=True)
        # A process of its own: a tool imports neither another tool nor the command line above it.
        return 0 if args.dry_run else subprocess.call([sys.executable, "-m", "llava_vista.cli", *words])
    return train(settings, args.dry_run)


def read_settings(args: argparse.Namespace) -> ReproduceSettings:
    """Return the user's choices, with the defaults filled in.

    Raises:
        ConfigError, ReproduceError: an option is wrong.
    """
    from .planned_trainings import BASELINE, ReproduceSettings
    from .prerequisites import find_gpus
    from .recipes import RECIPES

    if find_spec("torch"):  # the estimators import it; where it is missing the checklist names it
        VistaConfig(method=args.method, weight=args.weight)
    output = Path(args.output).resolve()
    if output.exists() and not output.is_dir():
        raise ReproduceError(f"--output {args.output} is a file; a folder was expected.")
    recipe = RECIPES[args.model]
    named = args.root or os.environ.get(recipe.root_variable)
    root = Path(named).resolve() if named else None
    data = (root or Path(f"${recipe.root_variable}")) / "playground/data"
    vista = f"vista-{args.method}" if args.weight == 1 else f"vista-{args.method}-{args.weight:g}"
    # A folder's path is absolute, because the script runs in the checkout; a hub id stays as it is.
    base, tower = (
        str(Path(name).resolve()) if Path(name).is_dir() else name
        for name in (args.base or recipe.base, args.tower or recipe.tower)
    )
    return ReproduceSettings(
        recipe=recipe,
        root=root,
        output=output,
        data_root=Path(args.data_root).resolve() if args.data_root else data,
        base=base,
        tower=tower,
        seeds=tuple(dict.fromkeys(args.seeds)),
        arms=tuple(BASELINE if arm == BASELINE else vista for arm in dict.fromkeys(args.arms)),
        stages=tuple(dict.fromkeys(args.stages)),
        gpus=args.gpus or (1 if recipe.cpu else max(len(find_gpus()), 1)),
        per_device=args.per_device_batch_size,
        flags={"--vista": "True", "--vista_method": args.method, "--vista_weight": f"{args.weight:g}"},
    )
