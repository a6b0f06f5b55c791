"""All arms read and compared with the baseline: everything that a report says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...errors import CompareError
from ..kit.evaluation_scores import EvaluationRun
from ..kit.json_files import BadFile
from ..kit.lmms_eval import read_lmms_eval
from ..kit.published_scores import published_source
from ..kit.training_folder import STATE_FILE, TrainingRun, looks_like_training, read_training
from .llava_logs import read_llava_logs
from .score_rows import adjust
from .task_comparison import ScoreComparison, compare_scores
from .training_comparison import TrainingComparison, compare_trainings, describe_alignment, describe_vista, run_summary
from .vlmevalkit import read_vlmevalkit

_READERS = (read_lmms_eval, read_llava_logs, read_vlmevalkit)


@dataclass
class Arm:
    """The runs of one arm in the order in which they were named, and what could not be read."""

    name: str
    folders: list[Path]
    trainings: list[TrainingRun] = field(default_factory=list)
    evaluations: list[EvaluationRun] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Comparison:
    """What was compared, and what was not. The first arm is the baseline; ``trainings`` has one item per other arm."""

    arms: list[Arm]
    trainings: list[TrainingComparison]
    scores: ScoreComparison
    problems: list[str]

    @property
    def is_comparable(self) -> bool:
        """Whether nothing recorded but VISTA differs between the trainings."""
        return not any(training.refusals for training in self.trainings)

    @property
    def is_complete(self) -> bool:
        """Whether everything that was named could be compared, which is something, and only VISTA differs."""
        rows = [*self.scores.rows, *(row for training in self.trainings for row in training.rows)]
        return bool(rows) and self.is_comparable and not self.problems and not self.not_compared

    @property
    def not_compared(self) -> list[str]:
        """What both arms have, or one of them, and could not be compared."""
        listed = [*(text for training in self.trainings for text in training.not_compared), *self.scores.not_compared]
        return list(dict.fromkeys(listed))

    def headlines(self) -> list[str]:
        """Return what the report is about, whether it is a comparison at all, and the outcome of each arm."""
        parts = []
        if self.trainings and self.is_comparable:
            counts = [str(len(arm.trainings)) for arm in self.arms]
            parts.append(f"trainings (runs per arm: {counts[0] if len(set(counts)) == 1 else '/'.join(counts)})")
        elif self.trainings:
            parts.append("trainings that are NOT comparable")
        if self.scores.rows:
            parts.append(f"{self.scores.count_tasks()} evaluated tasks")
        if left := len(self.not_compared) + len(self.problems):
            parts.append(f"{left} thing{'s' if left > 1 else ''} that could not be compared (named at the end)")
        names = ", ".join(arm.name for arm in self.arms[1:])
        lines = [f"Baseline against {names}: {', '.join(parts) or 'nothing to compare'}."]
        refused = {training.arm for training in self.trainings if training.refusals}
        said = [(training.arm, describe_alignment(training.vista)) for training in self.trainings]
        said += [(arm.name, self.scores.outcome(arm.name)) for arm in self.arms[1:] if arm.name not in refused]
        return lines + [text if len(self.arms) == 2 else f"{name}: {text}" for name, text in said if text]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the JSON report."""
        return {
            "llava_vista": __version__,
            "headlines": self.headlines(),
            "comparable": self.is_comparable,
            "complete": self.is_complete,
            "arms": [
                {
                    "name": arm.name,
                    "trainings": [run_summary(run) for run in arm.trainings],
                    "evaluations": [
                        {"folder": str(run.folder), "model": run.model, "seed": run.seed, "date": run.date}
                        for run in arm.evaluations
                    ],
                }
                for arm in self.arms
            ],
            "trainings": [training.to_dict() for training in self.trainings],
            "scores": [row.to_dict() for row in self.scores.rows],
            "conditions": self.scores.conditions,
            "not_compared": self.not_compared,
            "problems": self.problems,
            "notes": self.scores.notes,
            "published_source": published_source(),
        }


def compare(*folders: Sequence[str]) -> Comparison:
    """Read the directories of each arm, the baseline's first, and compare the other arms with it."""
    arms = [_read_arm("VISTA" if number else "baseline", named) for number, named in enumerate(folders)]
    baseline, *others = arms
    if len(others) > 1:  # named by VISTA's recorded options, else by a folder, and by number where these are equal
        names = [
            describe_vista(arm.trainings[0]).replace(",", "") if arm.trainings else arm.folders[0].name
            for arm in others
        ]
        for number, (arm, name) in enumerate(zip(others, names, strict=True), start=1):
            arm.name = name if names.count(name) == 1 else f"{name} ({number})"
    problems = [problem for arm in arms for problem in arm.problems]
    trained = [arm.name for arm in arms if arm.trainings]
    if trained and len(trained) < len(arms):
        problems.append(f"there are trainings in some arms only ({', '.join(trained)}); the others' are not compared.")
    pairs = [(arm.name, baseline.trainings, arm.trainings) for arm in others if baseline.trainings and arm.trainings]
    trainings = [compare_trainings(*pair) for pair in pairs]
    adjust([row for training in trainings for row in training.rows])
    return Comparison(arms, trainings, compare_scores([(arm.name, arm.evaluations) for arm in arms]), problems)


def _read_arm(name: str, folders: Sequence[str]) -> Arm:
    arm = Arm(name, [Path(text).expanduser() for text in folders])
    known: set[Path] = set()
    for text, folder in zip(folders, arm.folders, strict=True):
        if folder.resolve() in known:
            raise CompareError(f"{text} is named twice for the {name} arm; name each run once.")
        known.add(folder.resolve())
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise CompareError(
                f"{text} {found}; expected for the {name} arm: a training output directory ({STATE_FILE}), or a "
                "directory with the results of lmms-eval, VLMEvalKit or LLaVA's own evaluation scripts."
            )
        is_training = looks_like_training(folder)
        if is_training:
            try:
                arm.trainings.append(read_training(folder))
                arm.problems += arm.trainings[-1].problems
            except BadFile as error:
                arm.problems.append(str(error))
        evaluations = [evaluation for read in _READERS if (evaluation := read(folder))]
        for evaluation in evaluations:
            arm.problems += evaluation.problems
        arm.evaluations += [evaluation for evaluation in evaluations if evaluation.scores]
        if not is_training and not evaluations:
            inside = sorted(path.parent.name for path in folder.glob(f"*/{STATE_FILE}"))
            hint = f" Did you mean one of its folders: {', '.join(inside)}?" if inside else ""
            arm.problems.append(
                f"{folder} holds nothing to compare: no {STATE_FILE} and no TensorBoard events, no *_results.json of "
                "lmms-eval, no *_acc.csv or *_score.csv of VLMEvalKit, and no output of LLaVA's evaluation scripts."
                f"{hint}"
            )
    return arm
