"""A report as terminal text, as Markdown, and as one self-contained HTML page.

Markdown and HTML are jinja2 templates (``templates/``); text needs no dependency.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import textwrap
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from .extras import requires_extra
from .report import Block, Heading, Line, Report, Table

WIDTH = 110
_COLORS = {"  !!  ": "31;1", "  ok  ": "32", "  --  ": "2"}


def print_text(text: str) -> None:
    """Print a report's text: coloured marks on a terminal, plain in a file or pipe, or where NO_COLOR is set."""
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        for mark, color in _COLORS.items():
            text = re.sub(rf"^{mark}", f"\033[{color}m{mark}\033[0m", text, flags=re.MULTILINE)
    print(text, flush=True)


def to_text(report: Report, width: int = WIDTH) -> str:
    """Return the report as plain text. Lines are wrapped at ``width``; a table is as wide as its cells."""
    parts: list[str] = []
    for kind, group in groupby(report.blocks, type):
        blocks: list[Any] = list(group)
        if kind is Line:
            parts += _text_lines(blocks, width)
        elif kind is Heading:
            parts += [f"\n{block.text}" for block in blocks]
        elif kind is Table:
            parts += [f"\n{_text_table(block)}\n" for block in blocks]
    return "\n".join(parts).replace("\n\n\n", "\n\n").strip("\n")


def _text_lines(lines: list[Line], width: int) -> list[str]:
    label_width = max(len(line.label) for line in lines)
    wrapped = []
    for line in lines:
        head = f"  {line.mark:2}  " if line.mark or label_width else "  "
        if label_width:
            head += f"{line.label:{label_width}}  "
        wrapper = textwrap.TextWrapper(width, initial_indent=head, subsequent_indent=" " * len(head))
        wrapper.break_long_words = wrapper.break_on_hyphens = False  # paths and class names stay in one piece
        wrapped.append(wrapper.fill(line.text).rstrip())
    return wrapped


def _text_table(table: Table) -> str:
    lines = [table.head, *table.rows]
    sides = ["<" if column in table.left else ">" for column in range(len(table.head))]
    forms = [f"{side}{max(map(len, cells))}" for side, cells in zip(sides, zip(*lines, strict=True), strict=True)]
    drawn = ["  ".join(map(format, line, forms)).rstrip() for line in lines]
    drawn.insert(1, "-" * max(map(len, drawn)))
    return "\n".join(drawn)


def to_markdown(report: Report) -> str:
    """Return the report as Markdown. Figures are left to the HTML page."""
    return _render("report.md.jinja", report)


def to_html(report: Report, figures: Mapping[str, bytes] | None = None, title: str = "llava-vista") -> str:
    """Return the report as one HTML page with everything in it.

    ``figures`` has SVG by the name of its `Figure`; a figure of the report that is not among them is left out.
    """
    # As images of their own: the ids inside two SVGs on one page would collide.
    encoded = {name: base64.b64encode(svg).decode("ascii") for name, svg in (figures or {}).items()}
    return _render("report.html.jinja", report, figures=encoded, title=title)


def _render(template: str, report: Report, **values: Any) -> str:
    with requires_extra("compare"):
        import jinja2
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=template.endswith(".html.jinja"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    groups = [(kind, list(group)) for kind, group in groupby(report.blocks, _kind)]
    return environment.get_template(template).render(groups=groups, **values)


def _kind(block: Block) -> str:
    """Marked lines in a row are items of one list."""
    return "item" if isinstance(block, Line) and block.mark else type(block).__name__
