"""The document model of every tool's report: headings, marked lines, tables and figures, before they have a form.

`rendering` turns a `Report` into terminal text, Markdown or HTML.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

#: Marks of a line: as it should be, a problem, worth knowing, and no mark.
OK, WRONG, NOTE, PLAIN = "ok", "!!", "--", ""


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Line:
    """A sentence with its mark. Labels of consecutive lines are aligned."""

    mark: str
    text: str
    label: str = ""


@dataclass(frozen=True)
class Table:
    """Cells as text. Columns whose index is in ``left`` are words and are aligned left; the others are numbers."""

    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Figure:
    """The place of a figure: its name among the figures given to the renderer, and what it shows in words."""

    name: str
    caption: str


Block = Heading | Line | Table | Figure


@dataclass
class Checklist:
    """Labelled lines under a title, in the order in which they were checked. A problem's text ends with what to do."""

    title: str = ""
    lines: list[Line] = field(default_factory=list)

    def ok(self, label: str, text: str) -> None:
        self._add(OK, label, text)

    def wrong(self, label: str, text: str) -> None:
        self._add(WRONG, label, text)

    def note(self, label: str, text: str) -> None:
        self._add(NOTE, label, text)

    def plain(self, label: str, text: str) -> None:
        self._add(PLAIN, label, text)

    def _add(self, mark: str, label: str, text: str) -> None:
        line = Line(mark, text, label)
        if line not in self.lines:  # two stages of one tool check much of the same
            self.lines.append(line)

    @property
    def problems(self) -> list[Line]:
        return [line for line in self.lines if line.mark == WRONG]


@dataclass
class Report:
    """Blocks and checklists in reading order."""

    parts: list[Block | Checklist] = field(default_factory=list)

    def add(self, *parts: Block | Checklist) -> None:
        """Add blocks, or a checklist that may still grow."""
        self.parts += parts

    def add_lines(self, mark: str, texts: Iterable[str]) -> None:
        """Add one line without a label per text."""
        self.parts += [Line(mark, text) for text in texts]

    def section(self, title: str) -> Checklist:
        """Add an empty checklist, and return it. It is rendered under its title once it has lines."""
        self.parts.append(checklist := Checklist(title))
        return checklist

    @property
    def blocks(self) -> list[Block]:
        """All blocks, with each checklist as its title and its lines."""
        blocks: list[Block] = []
        for part in self.parts:
            if not isinstance(part, Checklist):
                blocks.append(part)
            elif part.lines:
                blocks += [*([Heading(part.title)] if part.title else []), *part.lines]
        return blocks

    @property
    def problems(self) -> list[Line]:
        return [block for block in self.blocks if isinstance(block, Line) and block.mark == WRONG]
