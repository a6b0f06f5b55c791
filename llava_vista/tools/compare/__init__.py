"""``llava-vista compare``: a baseline and a VISTA run side by side, their trainings and their evaluations.

arms        what lies in the named directories: training, lmms_eval, llava_eval
settings    does anything but VISTA differ? curves: the trainings' numbers
tasks       the evaluations, task by task; pairing: the questions behind the numbers; published: the authors' numbers
stats       bootstrap, McNemar, permutation; student: t over seeds
document    the report as blocks; render, figures and output put it into a form
"""

from __future__ import annotations

import argparse
import sys

_FORM = "llava-vista compare BASELINE VISTA, or with several runs (seeds) per arm --baseline A1 A2 --vista B1 B2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``llava-vista compare``."""
    parser.usage = (
        "llava-vista compare BASELINE VISTA [--output FILE]\n"
        "       llava-vista compare --baseline DIR [DIR ...] --vista DIR [DIR ...] [--output FILE]"
    )
    parser.epilog = (
        "A directory may hold a training (trainer_state.json), results of lmms-eval, or those of LLaVA's own "
        "evaluation scripts; what both arms have is compared. Exit code: 0 when everything could be compared, 1 "
        "when something could not, or when more than VISTA differs, 2 for a mistake in the command."
    )
    parser.add_argument("folders", nargs="*", metavar="BASELINE VISTA", help="the two directories")
    parser.add_argument(
        "--baseline", nargs="+", default=[], metavar="DIR", help="one directory per run of the baseline"
    )
    parser.add_argument(
        "--vista", nargs="+", default=[], metavar="DIR", help="one per run with VISTA, in the same order"
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="FILE",
        help="also write the report to FILE.html (with figures), FILE.md or FILE.json; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    """Compare, and print the report.

    Returns:
        0 when everything that was named could be compared, else 1.
    """
    from pathlib import Path

    from ...errors import CompareError
    from .comparison import compare
    from .document import build
    from .output import check_outputs, write
    from .render import to_text

    if args.folders and (args.baseline or args.vista):
        raise CompareError(f"name the directories in one way only: {_FORM}.")
    if args.folders and len(args.folders) != 2:
        raise CompareError(f"expected two directories, got {len(args.folders)}: {_FORM}.")
    baseline, vista = ([args.folders[0]], [args.folders[1]]) if args.folders else (args.baseline, args.vista)
    if not baseline or not vista:
        raise CompareError(f"name a baseline and a VISTA run: {_FORM}.")
    outputs = [Path(text) for text in args.output]
    check_outputs(outputs)
    comparison = compare(baseline, vista)
    blocks = build(comparison)
    print(to_text(blocks))
    for path in outputs:
        note = write(comparison, blocks, path)
        print(f"\nwritten: {path}")
        if note:
            print(note, file=sys.stderr)
    return 0 if comparison.complete else 1
