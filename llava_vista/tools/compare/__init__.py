"""``llava-vista compare``: a baseline and one or more VISTA arms compared, their trainings and their evaluations."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import CompareError

if TYPE_CHECKING:
    from .comparison import Comparison

REPORTS, FIGURES = (".html", ".md", ".json"), (".png", ".pdf", ".svg")
_FORM = "llava-vista compare BASELINE VISTA, or with several runs (seeds) per arm --baseline A1 A2 --vista B1 B2"
_OUTPUT_HELP = (
    "also write the report to FILE.html (with figures), .md or .json, or its figures to FILE.png, .pdf or .svg "
    "(FILE-*.png where there are several); may be given several times"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``llava-vista compare``."""
    parser.usage = (
        "llava-vista compare BASELINE VISTA [VISTA ...] [--output FILE]\n"
        "       llava-vista compare --baseline DIR [DIR ...] --vista DIR [DIR ...] [--vista DIR ...] [--output FILE]"
    )
    parser.epilog = (
        "A directory may hold a training (trainer_state.json, or TensorBoard's events), results of lmms-eval or "
        "VLMEvalKit, or those of LLaVA's own evaluation scripts; what both arms have is compared. Exit code: 0 when "
        "everything could be compared, 1 when something could not, or when more than VISTA differs, 2 for a mistake "
        "in the command. Example:\n  llava-vista compare runs/baseline runs/l2 runs/cosine -o report.html"
    )
    add = parser.add_argument
    add("folders", nargs="*", metavar="BASELINE VISTA", help="a directory of the baseline, and one per VISTA arm")
    add("--baseline", nargs="+", default=[], metavar="DIR", help="one directory per baseline run")
    vista_help = "one per run with VISTA, paired by recorded seed; give it again for another arm (method, weight)"
    add("--vista", nargs="+", action="append", default=[], metavar="DIR", help=vista_help)
    add("-o", "--output", action="append", default=[], type=Path, metavar="FILE", help=_OUTPUT_HELP)
    add("--json", action="store_true", help="print the report as JSON")
    add("--quiet", action="store_true", help="print the first sentences of the report only")


def run(args: argparse.Namespace) -> int:
    """Compare, write the files of ``--output``, and print the report.

    Returns 0 when everything that was named could be compared, else 1. Raises CompareError for a mistake in the command
    and MissingExtraError for what is not installed, before anything is printed or written.
    """
    from ..kit.rendering import print_text, to_text
    from .comparison import compare
    from .comparison_report import build_report

    if args.folders and (args.baseline or args.vista):
        raise CompareError(f"name the directories in one way only: {_FORM}.")
    arms = [[folder] for folder in args.folders] or [args.baseline, *args.vista]
    if len(arms) < 2 or not arms[0]:
        raise CompareError(f"name a baseline and a VISTA run: {_FORM}.")
    for path in args.output:
        if path.suffix.lower() not in REPORTS + FIGURES or path.is_dir():
            raise CompareError(f"--output {path}: the suffix must be one of {', '.join(REPORTS + FIGURES)}.")
        if any(folder.is_file() for folder in path.parents):
            raise CompareError(f"--output {path}: {path.parent} is not a folder and cannot become one.")
    comparison = compare(*arms)
    files = {name: content for path in args.output for name, content in _render(comparison, path).items()}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(f"written: {path}", file=sys.stderr)
    if args.json:
        print(json.dumps(comparison.to_dict(), indent=2))
    elif args.quiet:
        print("\n".join(comparison.headlines()))
    else:
        print_text(to_text(build_report(comparison)))
    return 0 if comparison.is_complete else 1


def _render(comparison: Comparison, path: Path) -> dict[Path, bytes]:
    """Return the files that an ``--output`` asks for: a report, or each figure under a name of its own."""
    from ..kit.rendering import to_html, to_markdown
    from .comparison_figures import draw_figures
    from .comparison_report import build_report

    suffix = path.suffix.lower()
    if suffix in FIGURES:
        figures = draw_figures(comparison, suffix[1:])
        if len(figures) == 1:
            return dict.fromkeys([path], *figures.values())
        names = {name: re.sub(r"[^a-z]+", "-", name.lower()) for name in figures}
        return {path.with_name(f"{path.stem}-{names[name]}{suffix}"): data for name, data in figures.items()}
    if suffix == ".json":
        text = json.dumps(comparison.to_dict(), indent=2) + "\n"
    elif suffix == ".md":
        text = to_markdown(build_report(comparison))
    else:
        text = to_html(build_report(comparison), draw_figures(comparison), "llava-vista compare")
    return {path: text.encode("utf-8")}
