"""A list of what is there, what is missing and what should be known, complete: nothing stops at the first problem."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

OK, MISSING, NOTE = "ok", "!!", " *"


class Item(NamedTuple):
    mark: str
    label: str
    text: str


class Checklist:
    """Items in the order in which they were looked at. What is missing says what to do."""

    def __init__(self) -> None:
        self.items: list[Item] = []

    def ok(self, label: str, text: str) -> None:
        self._add(Item(OK, label, text))

    def missing(self, label: str, text: str) -> None:
        self._add(Item(MISSING, label, text))

    def note(self, label: str, text: str) -> None:
        self._add(Item(NOTE, label, text))

    def _add(self, item: Item) -> None:
        if item not in self.items:  # two stages share much
            self.items.append(item)

    @property
    def problems(self) -> list[Item]:
        return [item for item in self.items if item.mark == MISSING]

    def render(self) -> str:
        width = max((len(item.label) for item in self.items), default=0)
        lines = []
        for mark, label, text in self.items:
            head = f"  {mark:2}  {label:{width}}  "
            lines.append(
                textwrap.fill(
                    text,
                    120,
                    initial_indent=head,
                    subsequent_indent=" " * len(head),
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )
        return "\n".join(lines)
