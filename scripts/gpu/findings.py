"""What a part of the run found: one finding per check, written to a file as soon as it is known."""

from __future__ import annotations

import contextlib
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

OK, MISSED, FAILED, NOT_RUN = "ok", "missed", "failed", "not run"


class Options(NamedTuple):
    """How a part is run: reduced means tiny shapes and no goal judged; seconds are those of the whole part."""

    device: str
    reduced: bool
    seconds: float
    wheels: Path | None = None


class NotRun(Exception):
    """A check that cannot be run here; the message says why."""


class Findings:
    """The findings of one part, each a dictionary: check, measured, goal, status and numbers of its own."""

    def __init__(self, path: Path, part: str, reduced: bool) -> None:
        self.path, self.part, self.reduced = path, part, reduced
        self.rows: list[dict[str, Any]] = []

    def add(self, check: str, measured: str, *, goal: str = "", status: str = OK, **numbers: Any) -> None:
        """Add a finding and write all of them, so that a crash loses none."""
        row = {"part": self.part, "check": check, "measured": measured, "goal": goal, "status": status, **numbers}
        self.rows.append(row)
        self.path.write_text(json.dumps(self.rows, indent=1) + "\n")
        print(f"{status:8}{check}: {measured}{f' (goal: {goal})' if goal else ''}", flush=True)

    def judge(self, check: str, measured: str, *, goal: str, met: bool, **numbers: Any) -> None:
        """Add a measurement with a goal, which a reduced run cannot miss."""
        self.add(check, measured, goal=goal, status=OK if met or self.reduced else MISSED, **numbers)

    @contextlib.contextmanager
    def attempt(self, check: str) -> Iterator[None]:
        """Turn an exception in the body into a finding, so that the next check runs."""
        try:
            yield
        except NotRun as reason:
            self.add(check, str(reason), status=NOT_RUN)
        except Exception as error:  # noqa: BLE001  (a GPU, a host or a compiler may raise anything)
            traceback.print_exc()
            self.add(check, f"{type(error).__name__}: {str(error)[:300]}", status=FAILED)


def require(condition: object, words: str) -> None:
    """Raise an AssertionError with the words, which `Findings.attempt` records, unless the condition holds."""
    if not condition:
        raise AssertionError(words)
