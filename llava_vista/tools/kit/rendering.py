"""A report as terminal text, as Markdown, and as one self-contained HTML page.

The page's style is in ``report.html``.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from .report import NOTE, WRONG, Block, Figure, Heading, Line, Report, Table

WIDTH = 110


_HTML_CLASSES = {WRONG: ' class="wrong"', NOTE: ' class="note"'}
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
            parts += [f"\n{block.text}" if parts else block.text for block in blocks]
        elif kind is Table:
            parts += [f"\n{_text_table(block)}\n" if parts else f"{_text_table(block)}\n" for block in blocks]
    return "\n".join(parts).replace("\n\n\n", "\n\n").rstrip("\n")


def _text_lines(lines: list[Line], width: int) -> list[str]:
    label_width = max(len(line.label) for line in lines)
    wrapped = []
    for line in lines:
        head = f"  {line.mark:2}  " if line.mark or label_width else "  "
        if label_width:
            head += f"{line.label:{label_width}}  "
        text = textwrap.fill(
            line.text,
            width,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_long_words=False,  # paths and class names stay in one piece
            break_on_hyphens=False,
        )
        wrapped.append(text.rstrip())
    return wrapped


def _text_table(table: Table) -> str:
    lines = [table.head, *table.rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    drawn = [
        "  ".join(
            cell.ljust(width) if column in table.left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    drawn.insert(1, "-" * max(map(len, drawn)))
    return "\n".join(drawn)


def to_markdown(report: Report) -> str:
    """Return the report as Markdown. Figures are left to the HTML page."""
    parts: list[str] = []
    for kind, group in groupby((block for block in report.blocks if not isinstance(block, Figure)), _kind):
        texts = [_markdown_block(block) for block in group]
        parts += ["\n".join(texts)] if kind == "item" else texts
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Table):
        rule = [" --- " if column in block.left else " ---: " for column in range(len(block.head))]
        rows = [[f" {cell.replace('|', '/')} " for cell in cells] for cells in (block.head, *block.rows)]
        return "\n".join(f"|{'|'.join(cells)}|" for cells in (rows[0], rule, *rows[1:]))
    if isinstance(block, Line):
        label = f"**{block.label}**: " if block.label else ""
        text = f"**{block.text}**" if block.mark == WRONG else block.text
        return f"{'- ' if block.mark else ''}{label}{text}"
    raise TypeError(block)


def to_html(report: Report, figures: Mapping[str, bytes] | None = None, title: str = "llava-vista") -> str:
    """Return the report as one HTML page with everything in it.

    Args:
        report: a figure of it that is not among ``figures`` is left out.
        figures: SVG by the name of its `Figure`.
        title: of the page.
    """
    body = "\n".join(_html_block(block, figures or {}) for block in report.blocks)
    page = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
    return page.replace("TITLE", escape(title), 1).replace("BODY", body, 1)


def _html_block(block: Block, figures: Mapping[str, bytes]) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Table):
        head, *rows = (_html_row(block, cells, tag) for cells, tag in
                       ((block.head, "th"), *((cells, "td") for cells in block.rows)))  # fmt: skip
        return f'<div class="scroll"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'
    if isinstance(block, Line):
        label = f"<b>{escape(block.label)}</b>: " if block.label else ""
        return f"<p{_HTML_CLASSES.get(block.mark, '')}>{label}{escape(block.text)}</p>"
    if block.name not in figures:
        return ""
    # As an image of its own: the ids inside two SVGs on one page would collide.
    source, caption = base64.b64encode(figures[block.name]).decode("ascii"), escape(block.caption)
    image = f'<img src="data:image/svg+xml;base64,{source}" alt="{caption}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _html_row(table: Table, cells: Sequence[str], tag: str) -> str:
    classes = [' class="word"' if column in table.left else "" for column in range(len(cells))]
    drawn = (f"<{tag}{word}>{escape(cell)}</{tag}>" for word, cell in zip(classes, cells, strict=True))
    return f"<tr>{''.join(drawn)}</tr>"


def _kind(block: Block) -> str:
    """Marked lines in a row are items of one list."""
    return "item" if isinstance(block, Line) and block.mark else type(block).__name__
