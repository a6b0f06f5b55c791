"""Writing the report to files; the suffix says in which form."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...errors import CompareError
from .comparison import Comparison
from .document import CURVES, Block
from .render import to_html, to_markdown
from .tasks import AVERAGE

SUFFIXES = (".html", ".md", ".json")
NO_MATPLOTLIB = "The figures need matplotlib, which is not installed here: pip install 'llava-vista[plots]'."


def check_outputs(paths: Sequence[Path]) -> None:
    """Before anything is computed.

    Raises:
        CompareError: a suffix says no form, or there is no such folder.
    """
    for path in paths:
        if path.suffix.lower() not in SUFFIXES:
            raise CompareError(f"--output {path}: the suffix must be one of {', '.join(SUFFIXES)}.")
        if not path.parent.is_dir():
            raise CompareError(f"--output {path}: there is no folder {path.parent}.")


def draw_figures(comparison: Comparison, kind: str = "svg") -> dict[str, bytes]:
    """The figures that there is something to draw for, by the name of their `Picture`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from .figures import changes_figure, training_figure

    figures = {}
    if comparison.training is not None:
        figures[CURVES] = training_figure(comparison.training, kind)
    rows = [row for row in comparison.scores.rows if row.main or row.task == AVERAGE]
    for harness in dict.fromkeys(row.harness for row in rows):
        figures[harness] = changes_figure([row for row in rows if row.harness == harness], kind)
    return figures


def write(comparison: Comparison, blocks: Sequence[Block], path: Path) -> str | None:
    """Write the report to ``path``.

    Returns:
        What the user should be told, if anything is missing from it.
    """
    note = None
    if path.suffix.lower() == ".json":
        text = json.dumps(comparison.to_dict(), indent=2) + "\n"
    elif path.suffix.lower() == ".md":
        text = to_markdown(blocks)
    else:
        try:
            figures = draw_figures(comparison)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "matplotlib":
                raise
            figures, note = {}, NO_MATPLOTLIB
        text = to_html(blocks, figures, note or "")
    path.write_text(text, encoding="utf-8")
    return note
