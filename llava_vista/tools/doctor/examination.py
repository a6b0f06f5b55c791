"""The examination: every section, in order, and the long, the short and the JSON form of the result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...config import ENVIRONMENT_VARIABLE
from ...errors import VistaError
from ..kit.rendering import to_text
from ..kit.report import NOTE, OK, PLAIN, WRONG, Checklist, Heading, Line, Report
from . import environment

if TYPE_CHECKING:
    from .attach_verdict import Verdict

#: Of the short form, in the renderer's width.
MAX_LINES = 12


class TargetError(VistaError, ValueError):
    """What the doctor was asked to look at is not a directory here."""


class Examination(Report):
    """The sections, and what was found out about the targets.

    summaries: by the titles of sections, their line of the short form.
    answers: the adapter of each target, in words.
    models: the verdicts on the model classes of the checkouts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.summaries: dict[str, str] = {}
        self.answers: list[str] = []
        self.models: list[Verdict] = []

    @property
    def sections(self) -> list[Checklist]:
        return [part for part in self.parts if isinstance(part, Checklist)]

    @property
    def answer(self) -> str:
        """The result in one sentence."""
        count = len(self.problems)
        found = f"{count} problem{'s' if count > 1 else ''} found (marked {WRONG})" if count else "Nothing is wrong"
        return f"{found}: {'; '.join(self.answers)}." if self.answers else f"{found}."

    def to_text(self) -> str:
        """Return the long form."""
        return to_text(Report([Heading(self.answer), *self.sections]))

    def to_short_text(self) -> str:
        """Return the answer, the problems, a line for each section, and notes while there is room."""
        rows = list(self.problems)
        for section in self.sections:
            marks = [line.mark for line in section.lines]
            if section.title in self.summaries and WRONG not in marks:
                mark = next((mark for mark in (NOTE, OK) if mark in marks), PLAIN)
                rows.append(Line(mark, self.summaries[section.title], section.title.partition(":")[0]))
        # Notes on what was asked about come last, and matter more than those on the environment.
        rows += [line for section in reversed(self.sections) for line in section.lines if line.mark == NOTE]
        for count in range(len(rows), 0, -1):
            more = f"Left out: {len(rows) - count}. " if count < len(rows) else ""
            text = to_text(Report([Heading(self.answer), *rows[:count]]))
            text += f"\n{more}Details: llava-vista doctor --verbose"
            if text.count("\n") < MAX_LINES:
                break
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON. Marks are as in the text."""
        models = [
            {"class": item.name, "place": item.place, "adapter": item.adapter_name, "problem": item.problem}
            for item in self.models
        ]
        sections = [{"title": part.title, "lines": [asdict(line) for line in part.lines]} for part in self.sections]
        return {"ok": not self.problems, "answer": self.answer, "models": models, "sections": sections}


def examine(targets: Sequence[str] = ()) -> Examination:
    """Look at this environment, and at checkouts and checkpoint folders.

    Raises:
        TargetError: a target is not a directory.
    """
    folders = [_target_folder(target) for target in targets]
    result, versions = Examination(), environment.found_versions()
    summary, torch_works, facts = environment.report_versions(result.section("Versions"), versions)
    request = os.environ.get(ENVIRONMENT_VARIABLE)
    result.summaries = {
        "Versions": summary,
        "Start-up hook": environment.report_startup(result.section("Start-up hook")),
        "Request": environment.report_request(result.section("Request"), request, torch_works),
    }
    if torch_works:
        from .targets import examine_targets  # imports the adapters, and so torch

        examine_targets(result, folders, versions, facts)
    else:
        result.section("Hosts").note("adapters", "need torch: hosts, checkouts and checkpoints were not looked at")
    return result


def _target_folder(target: str) -> Path:
    path = Path(target).expanduser()
    if path.name == "config.json" and path.is_file():
        path = path.parent
    if path.is_dir():
        return path
    found = "is a file" if path.exists() else "does not exist"
    raise TargetError(
        f"{target} {found}; a directory was expected: a host's checkout, or a checkpoint with a config.json. (A "
        "model on a hub has to be downloaded first.)"
    )
