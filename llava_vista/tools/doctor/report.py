"""A report: sections of lines that are marked ok, wrong (!!) or worth knowing (--). Plain ASCII."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

OK, WRONG, NOTE, PLAIN = "ok", "!!", "--", ""
WIDTH = 110


class Line(NamedTuple):
    mark: str
    label: str
    text: str


class Section:
    """Lines under one title; their labels are aligned when printed."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.lines: list[Line] = []

    def ok(self, label: str, text: str) -> None:
        self.lines.append(Line(OK, label, text))

    def wrong(self, label: str, text: str) -> None:
        """Something asked for would not work; the text ends with what to do."""
        self.lines.append(Line(WRONG, label, text))

    def note(self, label: str, text: str) -> None:
        self.lines.append(Line(NOTE, label, text))

    def plain(self, label: str, text: str) -> None:
        self.lines.append(Line(PLAIN, label, text))

    def render(self) -> str:
        width = max((len(line.label) for line in self.lines), default=0)
        rendered = [self.title]
        for mark, label, text in self.lines:
            head = f"  {mark:2}  {label:{width}}  "
            rendered.append(
                textwrap.fill(
                    text,
                    width=WIDTH,
                    initial_indent=head,
                    subsequent_indent=" " * len(head),
                    break_long_words=False,  # paths and class names stay in one piece
                    break_on_hyphens=False,
                ).rstrip()
            )
        return "\n".join(rendered)


class Report:
    """All sections, and how many lines are marked wrong."""

    def __init__(self) -> None:
        self.sections: list[Section] = []

    def section(self, title: str) -> Section:
        self.sections.append(Section(title))
        return self.sections[-1]

    @property
    def wrong(self) -> int:
        return sum(line.mark == WRONG for section in self.sections for line in section.lines)

    def render(self) -> str:
        parts = [section.render() for section in self.sections if section.lines]
        if self.wrong:
            things = "1 thing" if self.wrong == 1 else f"{self.wrong} things"
            parts.append(f"{things} would not work: see {WRONG} above.")
        else:
            parts.append("Nothing is wrong.")
        return "\n\n".join(parts)
