"""The comparison of an arm's trainings with the baseline's: whether it is one, and where the cross-entropy ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from ..kit.run_history import describe_parts
from ..kit.training_folder import (
    END_PART,
    END_RECORDS,
    Runs,
    TrainingRun,
    common_steps,
    end_records,
    means_at_both_ends,
)
from .score_rows import ScoreRow, pair_by_seed
from .training_conditions import DIFFERS, UNKNOWN, ConditionCheck, check_conditions

#: What is compared at the end of the trainings: its name and its unit.
_COMPARED = {
    "ce_loss": ("cross-entropy", "nats per token"),
    "vista_information": ("information of the image", "nats per token"),
    "vista_information_slope": ("slope of that information", "nats per position"),
}
#: The share of ``vista_own_first`` that a ranking by chance has.
CHANCE = "vista_own_first_chance"
#: What VISTA logs, with its name in reports.
VISTA_TERMS = {
    "vista_loss": "VISTA loss",
    "vista_similarity": "similarity (mean I)",
    "vista_margin": "margin of the own text",
    "vista_own_first": "own text ranked first",
    **{key: f"{name} ({unit})" for key, (name, unit) in _COMPARED.items() if key != "ce_loss"},
    CHANCE: "own text ranked first, by chance",
}
_DEFAULTS = {"position_weighting": "linear", "text_scope": "all", "on_nonfinite": "stop"}


@dataclass
class TrainingComparison:
    """The trainings of the baseline, and of the arm with this name.

    ``refusals`` names what makes them no comparison of VISTA, ``not_compared`` numbers that cannot be compared.
    """

    arm: str
    baseline: Runs
    vista: Runs
    checks: list[ConditionCheck]
    refusals: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    rows: list[ScoreRow] = field(default_factory=list)

    @property
    def runs(self) -> Runs:
        return [*self.baseline, *self.vista]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for the JSON report."""
        return {
            "arm": self.arm,
            "refusals": self.refusals,
            "notes": self.notes,
            "settings": [vars(check) for check in self.checks],
            "numbers": [row.to_dict() for row in self.rows],
            "vista_terms": summarize_terms(self.vista),
            "alignment": describe_alignment(self.vista),
        }


def compare_trainings(arm: str, baseline: Runs, vista: Runs) -> TrainingComparison:
    """Compare an arm's trainings with the baseline's."""
    vista, pairing = pair_by_seed(baseline, vista)
    result = TrainingComparison(arm, baseline, vista, check_conditions(baseline, vista))
    _add_refusals(result)
    _add_notes(result)
    for key in _COMPARED if not result.refusals else ():
        logged = [bool(run.series(key)[0]) for run in result.runs]
        found = _compare_ends(key, result) if key == "ce_loss" or all(logged) else None
        if isinstance(found, ScoreRow):
            found.test_seeds(pairing)
            if found.test is None:
                found.notes.append("one run per arm, so the noise between seeds is not known.")
            result.rows.append(found)
        elif key == "ce_loss":
            question = "Were they logged at other steps (logging_steps), or is much of a log not a number?"
            result.not_compared.append(f"{found}. {question}")
        elif found:  # a probe that measured seldom leaves the comparison complete
            result.notes.append(found)
        elif any(logged):
            result.notes.append(f"{key} is not in the log of every run, so it is not compared")
    return result


def _compare_ends(key: str, trainings: TrainingComparison) -> ScoreRow | str:
    """Return what a logged number was at the end of both arms' trainings, or why that cannot be said."""
    (task, unit), runs = _COMPARED[key], trainings.runs
    steps = common_steps(runs, key)
    reached = min(max(record["step"] for record in run.log) for run in runs)
    last = steps[-end_records(len(steps)) :]
    enough = min(END_RECORDS, *(len(run.series(key)[0] if key != "ce_loss" else run.log) for run in runs))
    if not last or len(last) < enough or last[-1] < (1 - END_PART) * reached:
        shared = f"{len(steps)} logged steps, the last of them {steps[-1]} of {reached}" if steps else "no logged step"
        return f"{task}: the trainings share {shared}, so their ends cannot be compared"
    before, after = ([fmean(run.values_at(key, last)) for run in arm] for arm in (trainings.baseline, trainings.vista))
    metric = f"mean of the last {len(last)} records (steps {last[0]} to {last[-1]})"
    return ScoreRow("training", task, metric, unit, before, after, None, arm=trainings.arm)


def describe_vista(run: TrainingRun) -> str:
    """Return VISTA's options of a run in words."""
    options = run.vista
    if options is None:
        return "observed only (weight 0)" if run.is_observed else "off"
    if not options:
        return "on, options not recorded (no vista.json)"
    changed = [f", {name} {options[name]}" for name, usual in _DEFAULTS.items() if options.get(name, usual) != usual]
    return f"{options.get('method')}, weight {options.get('weight'):g}{''.join(changed)}"


def describe_run(run: TrainingRun) -> str:
    """Return a run's directory, with the seed, times and versions that are recorded."""
    record = run.record or {}
    versions = record.get("versions") or {}
    known = [
        "" if run.seed is None else f"seed {run.seed}",
        " to ".join(str(record[key])[:16].replace("T", " ") for key in ("started", "finished") if record.get(key)),
        *(f"{name} {versions[name]}" for name in ("transformers", "torch") if name in versions),
    ]
    return f"{run.folder} ({', '.join(filter(None, known)) or 'no run record'})"


def summarize_terms(runs: Runs) -> list[dict[str, Any]]:
    """Return what VISTA's terms were at both ends of the training (means of so many records), averaged over runs."""
    summaries = []
    for key, name in VISTA_TERMS.items():
        series = [run.series(key)[1] for run in runs]
        if all(series):
            first, last = map(fmean, zip(*map(means_at_both_ends, series), strict=True))
            summaries.append({"key": key, "name": name, "first": first, "last": last})
    return summaries


def describe_alignment(runs: Runs) -> str:
    """Return a sentence when the VISTA loss fell and nothing shows that it fell by the images; else "".

    Both published estimators lower their loss also by what all samples share. The margin (own text less the other
    samples' texts) shrinks with the scale of the states; the rank of the own text does not.
    """
    terms = {term["key"]: term for term in summarize_terms(runs)}
    loss, shown = terms.get("vista_loss"), [terms[key] for key in ("vista_margin", "vista_own_first") if key in terms]
    rises = {key: term["last"] - term["first"] for key, term in terms.items()}
    if CHANCE in rises and "vista_own_first" in rises:
        rises["vista_own_first"] -= rises[CHANCE]  # smaller batches are easier to be first in
    if not shown or loss is None or rises["vista_loss"] >= 0 or all(rises[term["key"]] > 0 for term in shown):
        return ""
    numbers = "; ".join(f"{term['name']} {term['first']:.3g} -> {term['last']:.3g}" for term in shown)
    chance = f" (chance {terms[CHANCE]['last']:.3g})" if CHANCE in terms else ""
    return (
        f"The VISTA loss fell ({loss['first']:.3g} -> {loss['last']:.3g}) and the alignment with the own image did not "
        f"rise ({numbers}{chance}): its fall is no sign of alignment."
    )


def _add_refusals(result: TrainingComparison) -> None:
    reasons = [check.sentence("VISTA") for check in result.checks if check.status == DIFFERS]
    arms = {"baseline": result.baseline, result.arm: result.vista}
    before, after = kinds = [list(dict.fromkeys(map(describe_vista, runs))) for runs in arms.values()]
    for name, found in zip(arms, kinds, strict=True):
        if len(found) > 1:
            reasons.append(f"the runs of the {name} arm differ in VISTA's own options: {' / '.join(found)}")
    if all(run.vista is None for run in result.vista):
        swapped = ", but the baseline was: are the two swapped?" * any(run.vista is not None for run in result.baseline)
        reasons.append(f"the {result.arm} arm was not trained with VISTA ({after[0]}){swapped}")
    elif before == after:
        reasons.append(f"VISTA does not differ: {before[0]} in both arms")
    for name, runs in arms.items():
        reasons += [f"{run.folder}: {change}" for run in runs for change in describe_parts(run.record, run.log)[0]]
        seeds = Counter(str(run.seed) for run in runs if run.seed is not None)
        if repeated := [seed for seed, times in seeds.items() if times > 1]:
            reasons.append(f"the {name} arm has the same seed more than once: {', '.join(repeated)}")
    same: dict[tuple[str, str], list[str]] = {}
    for run in result.runs:
        if run.record and "run_id" in run.record:
            same.setdefault((str(run.record["run_id"]), str(run.record.get("started"))), []).append(str(run.folder))
    copies = [folders for folders in same.values() if len(folders) > 1]
    reasons += [f"{' and '.join(folders)} are one training by run_id and start" for folders in copies]
    result.refusals = reasons


def _add_notes(result: TrainingComparison) -> None:
    notes, baseline = result.notes, result.baseline
    if any(run.vista is not None for run in baseline):
        notes.append(f"the baseline was trained with VISTA too ({describe_vista(baseline[0])}): two settings of it")
    for run in result.runs:
        notes += [f"{run.folder}: {change}" for change in describe_parts(run.record, run.log)[1]]
        for key in ("ce_loss", *VISTA_TERMS):
            if steps := run.nonfinite_steps(key):
                count = len(steps) + len(run.series(key)[0])
                where = f"in {len(steps)} of {count} records (steps {steps[0]} to {steps[-1]})"
                notes.append(f"{run.folder}: {key} is NaN or infinite {where}; they are left out")
    without = [str(run.folder) for run in result.runs if not (run.arguments or run.logged_arguments)]
    if without and any(check.status == UNKNOWN for check in result.checks):
        notes.append(
            f"no vista.json with the host's arguments in {', '.join(without)}: training a baseline with `--vista "
            "--vista_weight 0` writes one and changes no number of it"
        )


def run_summary(run: TrainingRun) -> dict[str, Any]:
    """Return what was trained, and its curves, as plain values."""
    series = {key: run.series(key) for key in ("ce_loss", *VISTA_TERMS)}
    return {
        "folder": str(run.folder),
        "vista": describe_vista(run),
        "seed": run.seed,
        **{key: (run.record or {}).get(key) for key in ("run_id", "started", "finished", "versions")},
        "curves": {key: {"steps": steps, "values": values} for key, (steps, values) in series.items() if steps},
    }
