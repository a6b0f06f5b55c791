"""``llava-vista compare``: a baseline and a VISTA run compared, their trainings and their evaluations.

run_directories      what the named directories hold; llava_logs: the printed results of LLaVA's own scripts
training_conditions  whether anything but VISTA differs; training_comparison: the trainings' numbers
task_comparison      the evaluations, task by task; question_pairs: the questions behind the numbers
score_rows           a number of both arms, with interval and test
comparison_report    the report; comparison_figures: its figures
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .comparison import Comparison

SUFFIXES = (".html", ".md", ".json")
_FORM = "llava-vista compare BASELINE VISTA, or with several runs (seeds) per arm --baseline A1 A2 --vista B1 B2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``llava-vista compare``."""
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
    parser.add_argument("--baseline", nargs="+", default=[], metavar="DIR", help="one directory per baseline run")
    parser.add_argument(
        "--vista", nargs="+", default=[], metavar="DIR", help="one per run with VISTA, in the same order"
    )
    parser.add_argument(
        "--output",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="also write the report to FILE.html (with figures), FILE.md or FILE.json; may be given several times",
    )


def run(args: argparse.Namespace) -> int:
    """Compare, write the files of ``--output``, and print the report.

    Returns:
        0 when everything that was named could be compared, else 1.

    Raises:
        CompareError: a mistake in the command.
        MissingExtraError: something that is needed is not installed. Nothing has been printed or written then.
    """
    from ..kit.rendering import to_text
    from .comparison import compare
    from .comparison_report import build_report

    baseline, vista = _arms(args)
    for path in args.output:
        _check_output(path)
    comparison = compare(baseline, vista)
    files = {path: _render(comparison, path.suffix.lower()) for path in args.output}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    print(to_text(build_report(comparison)))
    for path in files:
        print(f"\nwritten: {path}")
    return 0 if comparison.is_complete else 1


def _arms(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    from ...errors import CompareError

    if args.folders and (args.baseline or args.vista):
        raise CompareError(f"name the directories in one way only: {_FORM}.")
    if args.folders and len(args.folders) != 2:
        raise CompareError(f"expected two directories, got {len(args.folders)}: {_FORM}.")
    baseline, vista = ([args.folders[0]], [args.folders[1]]) if args.folders else (args.baseline, args.vista)
    if not baseline or not vista:
        raise CompareError(f"name a baseline and a VISTA run: {_FORM}.")
    return baseline, vista


def _check_output(path: Path) -> None:
    from ...errors import CompareError

    if path.suffix.lower() not in SUFFIXES:
        raise CompareError(f"--output {path}: the suffix must be one of {', '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise CompareError(f"--output {path}: there is no folder {path.parent}.")


def _render(comparison: Comparison, suffix: str) -> str:
    from ..kit.rendering import to_html, to_markdown
    from .comparison_report import build_report

    if suffix == ".json":
        return json.dumps(comparison.to_dict(), indent=2) + "\n"
    if suffix == ".md":
        return to_markdown(build_report(comparison))
    from .comparison_figures import draw_figures

    return to_html(build_report(comparison), draw_figures(comparison), "llava-vista compare")
