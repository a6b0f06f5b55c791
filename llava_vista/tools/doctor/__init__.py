"""``llava-vista doctor``: would VISTA work here, and on this checkout or checkpoint? Nothing of a host is imported."""

from __future__ import annotations

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "targets",
        nargs="*",
        metavar="MODEL_OR_REPO",
        help="also look at these folders: a host's checkout (LLaVA, a fork of it), or a checkpoint with a config.json. "
        "A checkpoint's class is looked up in the checkouts named beside it.",
    )
    parser.add_argument("--verbose", action="store_true", help="every line, not only the twelve that matter most")
    parser.add_argument("--json", action="store_true", help="every line as JSON")
    parser.epilog = "Example:\n  llava-vista doctor path/to/LLaVA checkpoints/llava-v1.5-7b-pretrain"


def run(args: argparse.Namespace) -> int:
    """Print the result.

    Returns:
        0 when nothing is wrong, 1 when something asked for would not work.
    """
    from ..kit.rendering import print_text
    from .examination import examine

    result = examine(args.targets)
    if args.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        print_text(result.to_text() if args.verbose else result.to_short_text())
    return 1 if result.problems else 0
