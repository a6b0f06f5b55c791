"""LLaVA-1.5's own two training stages on a tiny genuine model, once without VISTA and once with it."""

from __future__ import annotations

import argparse
import importlib.util
import sys

from ...config import VistaConfig
from ...errors import DemoError
from ..kit.argument_types import seed

#: Imported by LLaVA's training, and by the demo itself.
NEEDED = ("torch", "transformers", "llava", "sentencepiece", "PIL", "matplotlib", "deepspeed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``llava-vista demo``."""
    add = parser.add_argument
    add("--output", default="vista-demo", help="folder for all files of the demo")
    add("--overwrite", action="store_true", help="delete an earlier demo in that folder first")
    add("--seed", type=seed, default=0, help="of data, weights and training")
    add("--method", default="l2", help="value of --vista_method")
    add("--weight", type=float, default=1.0, help="value of --vista_weight")
    add("--quick", action="store_true", help="a few steps only: tests the installation, trains nothing")
    parser.epilog = "Example:\n  llava-vista demo --method cosine --weight 0.1 --output demo-cosine"


def run(args: argparse.Namespace) -> int:
    """Run the demo, and return the exit code.

    Raises:
        ConfigError: an option of VISTA's is wrong.
        DemoError: a package is missing, or see `paired_training.run_demo`.
    """
    VistaConfig(method=args.method, weight=args.weight)  # a wrong value is an error before anything is trained
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise DemoError(
            f"The demo needs packages that are not in this environment ({sys.prefix}): {', '.join(missing)}. Run "
            "`bash scripts/demo.sh` in a checkout of llava-vista: it makes an environment that has them."
        )
    from .paired_training import run_demo

    run_demo(args)
    return 0
