"""The comparison of trainings: is it one, the curves, and where the cross-entropy ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from .rows import Row
from .settings import DIFFERS, UNKNOWN, Check, compare_settings
from .training import TrainingRun, common_steps, values_at

#: The end of a training: this part of the records that all runs share, and at least so many.
END_PART, END_RECORDS = 0.1, 3
VISTA_KEYS = {"vista_loss": "VISTA loss", "vista_similarity": "similarity (mean I)"}


@dataclass
class TrainingComparison:
    """Two arms of trainings. ``refusals`` names what makes it none; ``rows`` are empty then."""

    baseline: list[TrainingRun]
    vista: list[TrainingRun]
    checks: list[Check]
    refusals: list[str]
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def describe_vista(run: TrainingRun) -> str:
    """VISTA's options of a run in words."""
    options = run.vista
    if options is None:
        return "observed only (weight 0)" if run.observed else "off"
    if not options:
        return "on, options not recorded (no vista.json)"
    text = f"{options.get('method')}, weight {options.get('weight'):g}"
    return text + "".join(
        f", {name} {options[name]}"
        for name, default in (("position_weighting", "linear"), ("text_scope", "all"), ("on_nonfinite", "stop"))
        if options.get(name, default) != default
    )


def _refusals(baseline: Sequence[TrainingRun], vista: Sequence[TrainingRun], checks: Sequence[Check]) -> list[str]:
    reasons = [check.sentence() for check in checks if check.status == DIFFERS]
    kinds = [list(dict.fromkeys(describe_vista(run) for run in arm)) for arm in (baseline, vista)]
    for name, found in zip(("baseline", "VISTA"), kinds, strict=True):
        if len(found) > 1:
            reasons.append(f"the runs of the {name} arm differ in VISTA's own options: {' / '.join(found)}")
    if all(run.vista is None for run in vista):
        swapped = any(run.vista is not None for run in baseline)
        reasons.append(
            f"the VISTA arm was not trained with VISTA ({kinds[1][0]})"
            + (", but the baseline was: are the two swapped?" if swapped else "")
        )
    elif kinds[0] == kinds[1]:
        reasons.append(f"VISTA does not differ: {kinds[0][0]} in both arms")
    for name, arm in (("baseline", baseline), ("VISTA", vista)):
        again = [
            str(seed) for seed, times in Counter(run.seed for run in arm).items() if times > 1 and seed is not None
        ]
        folders = [str(folder) for folder, times in Counter(run.folder.resolve() for run in arm).items() if times > 1]
        if again or folders:
            reasons.append(f"the {name} arm has the same {'folder' if folders else 'seed'} more than once: "
                           f"{', '.join(folders or again)}")  # fmt: skip
    return reasons


def _notes(baseline: Sequence[TrainingRun], vista: Sequence[TrainingRun], checks: Sequence[Check]) -> list[str]:
    notes = []
    if any(run.vista is not None for run in baseline):
        notes.append(f"the baseline was trained with VISTA too ({describe_vista(baseline[0])}): two settings of it")
    without = [str(run.folder) for run in (*baseline, *vista) if not run.arguments]
    if without and any(check.status == UNKNOWN for check in checks):
        notes.append(
            f"no vista.json with the host's arguments in {', '.join(without)}: training a baseline with `--vista "
            "--vista_weight 0` writes one and changes no number of it"
        )
    return notes


def _end_row(name: str, key: str, unit: str, arms: Sequence[Sequence[TrainingRun]]) -> Row | None:
    steps = common_steps([run for arm in arms for run in arm], key)
    if not steps:
        return None
    last = steps[-max(END_RECORDS, round(END_PART * len(steps))) :]
    values = [[fmean(values_at(run, key, last)) for run in arm] for arm in arms]
    row = Row("training", name, f"mean of the last {len(last)} records", unit, values[0], values[1], None)
    row.use_seeds()
    return row


def compare_trainings(baseline: list[TrainingRun], vista: list[TrainingRun]) -> TrainingComparison:
    """Compare the trainings of two arms."""
    checks = compare_settings(baseline, vista)
    result = TrainingComparison(
        baseline, vista, checks, _refusals(baseline, vista, checks), _notes(baseline, vista, checks)
    )
    if result.refusals:
        return result
    row = _end_row("cross-entropy", "ce_loss", "nats per token", (baseline, vista))
    if row is None:
        result.notes.append("the runs have no logged step in common (different logging_steps): no numbers side by side")
        return result
    if row.test is None:
        row.notes.append("one run per arm: the noise between seeds is not known.")
    result.rows.append(row)
    return result


def vista_summary(runs: Sequence[TrainingRun]) -> list[dict[str, Any]]:
    """How VISTA's own curves went: first record and mean of the last ones, averaged over runs. Empty without VISTA."""
    lines = []
    for key, name in VISTA_KEYS.items():
        series = [run.series(key)[1] for run in runs]
        if all(series):
            ends = [fmean(values[-max(END_RECORDS, round(END_PART * len(values))) :]) for values in series]
            lines.append({"name": name, "first": fmean(values[0] for values in series), "last": fmean(ends)})
    return lines
