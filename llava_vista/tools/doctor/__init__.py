"""``llava-vista doctor``: would VISTA work here, and on this checkout or checkpoint?

environment  versions, the start-up hook, LLAVA_VISTA, the hosts that are installed
checkout     a host's repository, read as text
checkpoint   a model directory's config.json
troubles     what is known to go wrong with which versions
source       Python source looked at through ast, never imported
report       the marked lines that come out
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target",
        nargs="?",
        metavar="MODEL_OR_REPO",
        help="also look at this directory: a host's checkout (LLaVA, a fork of it), or a checkpoint with a config.json",
    )


def run(args: argparse.Namespace) -> int:
    """Print the report.

    Returns:
        0 when nothing is wrong, 1 when something asked for would not work.
    """
    from .examine import examine

    report = examine(args.target)
    print(report.render())
    return 1 if report.wrong else 0
