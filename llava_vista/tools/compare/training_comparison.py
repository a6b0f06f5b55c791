"""The comparison of two arms of trainings: whether it is one, and where the cross-entropy ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..kit.training_folder import END_PART, END_RECORDS, TrainingRun, common_steps, end_records, mean_at_end
from .score_rows import ScoreRow, pair_by_seed
from .training_conditions import DIFFERS, UNKNOWN, ConditionCheck, check_conditions

ARMS = ("baseline", "VISTA")
VISTA_TERMS = {"vista_loss": "VISTA loss", "vista_similarity": "similarity (mean I)"}
_DEFAULTS = {"position_weighting": "linear", "text_scope": "all", "on_nonfinite": "stop"}


@dataclass
class TrainingComparison:
    """Two arms of trainings.

    ``refusals`` names what makes them no comparison of VISTA, ``not_compared`` numbers that cannot be compared.
    """

    baseline: list[TrainingRun]
    vista: list[TrainingRun]
    checks: list[ConditionCheck]
    refusals: list[str]
    notes: list[str]
    not_compared: list[str]
    rows: list[ScoreRow]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the JSON report."""
        return {
            "refusals": self.refusals,
            "notes": self.notes,
            "settings": [vars(check) for check in self.checks],
            "numbers": [row.to_dict() for row in self.rows],
            "vista_terms": summarize_terms(self.vista),
            "baseline": [_run_dict(run) for run in self.baseline],
            "vista": [_run_dict(run) for run in self.vista],
        }


def compare_trainings(baseline: list[TrainingRun], vista: list[TrainingRun]) -> TrainingComparison:
    """Compare the trainings of two arms.

    Raises:
        MissingExtraError: several runs per arm need the extra ``compare``.
    """
    vista, pairing = pair_by_seed(baseline, vista)
    checks = check_conditions(baseline, vista)
    result = TrainingComparison(
        baseline, vista, checks, _refusals(baseline, vista, checks), _notes(baseline, vista, checks), [], []
    )
    if result.refusals:
        return result
    runs = [*baseline, *vista]
    steps = common_steps(runs)
    reached = min(max(record["step"] for record in run.log) for run in runs)
    last = steps[-end_records(len(steps)) :]
    if not last or len(last) < min(END_RECORDS, *(len(run.log) for run in runs)) or last[-1] < (1 - END_PART) * reached:
        shared = f"{len(steps)} logged steps, the last of them {steps[-1]} of {reached}" if steps else "no logged step"
        result.not_compared.append(
            f"cross-entropy: the trainings share {shared}, so their ends cannot be compared. Were they logged at other "
            "steps (logging_steps), or is much of a log not a number?"
        )
        return result
    before, after = ([fmean(run.values_at("ce_loss", last)) for run in arm] for arm in (baseline, vista))
    metric = f"mean of the last {len(last)} records (steps {last[0]} to {last[-1]})"
    row = ScoreRow("training", "cross-entropy", metric, "nats per token", before, after, None)
    row.test_seeds(pairing)
    if row.test is None:
        row.notes.append("one run per arm, so the noise between seeds is not known.")
    result.rows.append(row)
    return result


def describe_vista(run: TrainingRun) -> str:
    """Return VISTA's options of a run in words."""
    options = run.vista
    if options is None:
        return "observed only (weight 0)" if run.is_observed else "off"
    if not options:
        return "on, options not recorded (no vista.json)"
    changed = [f", {name} {options[name]}" for name, usual in _DEFAULTS.items() if options.get(name, usual) != usual]
    return f"{options.get('method')}, weight {options.get('weight'):g}{''.join(changed)}"


def summarize_terms(runs: Sequence[TrainingRun]) -> list[dict[str, Any]]:
    """Return first record and mean of the last ones of VISTA's own terms, averaged over runs. Empty without VISTA."""
    summaries = []
    for key, name in VISTA_TERMS.items():
        series = [run.series(key)[1] for run in runs]
        if all(series):
            first, last = fmean(values[0] for values in series), fmean(map(mean_at_end, series))
            summaries.append({"name": name, "first": first, "last": last})
    return summaries


def _refusals(
    baseline: Sequence[TrainingRun], vista: Sequence[TrainingRun], checks: Sequence[ConditionCheck]
) -> list[str]:
    reasons = [check.sentence() for check in checks if check.status == DIFFERS]
    kinds = [list(dict.fromkeys(describe_vista(run) for run in arm)) for arm in (baseline, vista)]
    for name, found in zip(ARMS, kinds, strict=True):
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
    for name, arm in zip(ARMS, (baseline, vista), strict=True):
        seeds = Counter(str(run.seed) for run in arm if run.seed is not None)
        repeated = [seed for seed, times in seeds.items() if times > 1]
        if repeated:
            reasons.append(f"the {name} arm has the same seed more than once: {', '.join(repeated)}")
    return reasons


def _notes(
    baseline: Sequence[TrainingRun], vista: Sequence[TrainingRun], checks: Sequence[ConditionCheck]
) -> list[str]:
    notes = []
    if any(run.vista is not None for run in baseline):
        notes.append(f"the baseline was trained with VISTA too ({describe_vista(baseline[0])}): two settings of it")
    for run in (*baseline, *vista):
        for key in ("ce_loss", *VISTA_TERMS):
            steps = run.nonfinite_steps(key)
            if steps:
                kept = len(run.series(key)[0])
                notes.append(
                    f"{run.folder}: {key} is NaN or infinite in {len(steps)} of {len(steps) + kept} records (steps "
                    f"{steps[0]} to {steps[-1]}); they are left out"
                )
    without = [str(run.folder) for run in (*baseline, *vista) if not run.arguments]
    if without and any(check.status == UNKNOWN for check in checks):
        notes.append(
            f"no vista.json with the host's arguments in {', '.join(without)}: training a baseline with `--vista "
            "--vista_weight 0` writes one and changes no number of it"
        )
    return notes


def _run_dict(run: TrainingRun) -> dict[str, Any]:
    series = {key: run.series(key) for key in ("ce_loss", *VISTA_TERMS)}
    return {
        "folder": str(run.folder),
        "vista": describe_vista(run),
        "seed": run.seed,
        "curves": {key: {"steps": steps, "values": values} for key, (steps, values) in series.items() if steps},
    }
