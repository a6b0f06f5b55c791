"""The report's blocks as terminal text, Markdown, and one self-contained HTML page."""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Mapping, Sequence
from html import escape

from .document import Block, Heading, Line, Picture, Table

WIDTH = 110
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff; margin: 2em auto; padding: 0 1.5em;
       max-width: 1400px; }
h1 { font-size: 1.5em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ccc; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
th, td { padding: .3em .55em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th { background: #f3f3f3; vertical-align: bottom; white-space: normal; } .word { text-align: left; }
p { margin: .35em 0; max-width: 75em; } .wrong { color: #9b1c00; font-weight: 600; } .note { color: #555; }
figure { margin: 1.5em 0; } figure img { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 13.5px; }
"""
_CLASSES = {"!!": "wrong", "--": "note"}


def _text_table(table: Table) -> str:
    lines = [table.head, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.head))]

    def draw(line: tuple[str, ...]) -> str:
        cells = [
            cell.ljust(width) if column in table.left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    drawn = [draw(line) for line in lines]
    drawn.insert(1, "-" * max(map(len, drawn)))
    return "\n".join(drawn)


def to_text(blocks: Sequence[Block]) -> str:
    """For a terminal: plain text, tables as wide as they need to be."""
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"\n{block.text}" if parts else block.text)
        elif isinstance(block, Table):
            parts.append(f"\n{_text_table(block)}\n")
        elif isinstance(block, Line):
            head = f"  {block.mark:2}  " if block.mark else "  "
            parts.append(
                textwrap.fill(
                    block.text,
                    width=WIDTH,
                    initial_indent=head,
                    subsequent_indent=" " * len(head),
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def to_markdown(blocks: Sequence[Block]) -> str:
    """Markdown with pipe tables; figures are left to the HTML report."""
    parts: list[str] = []
    listing = False  # consecutive items stay one list
    for block in blocks:
        item = isinstance(block, Line) and bool(block.mark)
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Line):
            text = f"**{block.text}**" if block.mark == "!!" else block.text
            if item and listing:
                parts[-1] += f"\n- {text}"
            else:
                parts.append(f"- {text}" if item else text)
        elif isinstance(block, Table):
            rule = ["---" if column in block.left else "---:" for column in range(len(block.head))]
            lines = [block.head, tuple(rule), *block.rows]
            parts.append("\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines))
        listing = item
    return "\n\n".join(parts) + "\n"


def to_html(blocks: Sequence[Block], figures: Mapping[str, bytes], missing: str = "") -> str:
    """One HTML page with everything in it.

    Args:
        blocks: the report.
        figures: SVG by the name of its `Picture`.
        missing: what to say where a picture is not among them.
    """
    body = []
    for block in blocks:
        if isinstance(block, Heading):
            body.append(f"<h{block.level}>{escape(block.text)}</h{block.level}>")
        elif isinstance(block, Line):
            kind = _CLASSES.get(block.mark, "")
            body.append(f'<p class="{kind}">{escape(block.text)}</p>' if kind else f"<p>{escape(block.text)}</p>")
        elif isinstance(block, Table):
            body.append(_html_table(block))
        elif isinstance(block, Picture) and block.name in figures:
            # As an image of its own: the ids inside two SVGs on one page would collide.
            data = base64.b64encode(figures[block.name]).decode("ascii")
            caption = escape(block.caption)
            body.append(
                f'<figure><img src="data:image/svg+xml;base64,{data}" alt="{caption}">'
                f"<figcaption>{caption}</figcaption></figure>"
            )
        elif isinstance(block, Picture) and missing:
            body.append(f'<p class="note">{escape(missing)}</p>')
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>llava-vista compare</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _html_table(table: Table) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        drawn = (
            f'<{tag} class="word">{escape(cell)}</{tag}>' if column in table.left else f"<{tag}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr>{''.join(drawn)}</tr>"

    lines = "\n".join(row(cells, "td") for cells in table.rows)
    head = row(table.head, "th")
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>'
