"""The demo: LLaVA-1.5's own two training stages on a tiny genuine set-up, as a baseline and with VISTA."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``llava-vista demo``."""
    parser.add_argument("--output", default="vista-demo", help="folder for everything the demo makes")
    parser.add_argument("--overwrite", action="store_true", help="delete what an earlier demo left in that folder")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and training; both runs share it")
    parser.add_argument("--method", default="l2", help="passed on as --vista_method")
    parser.add_argument("--weight", type=float, default=1.0, help="passed on as --vista_weight")
    parser.add_argument("--quick", action="store_true", help="a handful of steps: only shows that everything runs")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns the exit code."""
    from .pipeline import run_demo

    run_demo(args)
    return 0
