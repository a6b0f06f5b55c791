"""Whether anything but VISTA differs between the arms: every condition that the files of a training record."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..kit.json_files import package_data
from ..kit.training_folder import Runs, TrainingRun

SAME, DIFFERS, UNKNOWN = "same", "differs", "unknown"
NOT_RECORDED = "not recorded"
_DATA = package_data(__package__, "training_conditions.json")
_TOPIC_OF = {name: topic for topic, names in _DATA["topics"].items() for name in names}
#: The first step's cross-entropy precedes VISTA's first update; kernels and rounding (4 digits) stay below this.
_FIRST_STEP_TOLERANCE = 5e-3
#: The value of a condition that a run does not record.
MISSING: Any = object()

Conditions = dict[tuple[str, str], Any]


@dataclass(frozen=True)
class ConditionCheck:
    """One condition: the same in all runs, different, or not recorded in some."""

    topic: str
    name: str
    status: str
    baseline: str
    vista: str

    def sentence(self, arm: str) -> str:
        return f"{self.topic}: {self.name} is {self.baseline} in the baseline, {self.vista} with {arm}"


def check_conditions(baseline: Runs, vista: Runs) -> list[ConditionCheck]:
    """Compare all runs of both arms, condition by condition. VISTA's own options are not among them."""
    before, after = [_recorded(run) for run in baseline], [_recorded(run) for run in vista]
    checks = [_learning_rates(baseline, vista)]
    for source in before[0]:
        files = [[run[source] for run in arm] for arm in (before, after)]
        for key in dict.fromkeys(key for arm in files for file in arm for key in file or {}):
            # A null in a file that is there is a value like any other.
            arms = [[MISSING if file is None else file.get(key) for file in arm] for arm in files]
            if any(value not in (MISSING, None) for arm in arms for value in arm):
                checks.append(check_condition(*key, *arms))
    if len(baseline) == len(vista) == 1:
        checks += _same_data(baseline[0], vista[0])
    found = {(check.topic, check.name) for check in checks}
    for topic, name in _DATA["required"]:
        if (topic, name) not in found:
            checks.append(ConditionCheck(topic, name, UNKNOWN, NOT_RECORDED, NOT_RECORDED))
    order = list(_DATA["topics"])
    return sorted(checks, key=lambda check: order.index(check.topic))


def _recorded(run: TrainingRun) -> dict[str, Conditions | None]:
    """Return what each file of a run records, None for a file that is not there."""
    record, adapter, config = run.record or {}, run.adapter_config or {}, run.model_config
    lora = {name: _sorted(adapter.get(name)) for name in _DATA["adapter"]}
    # Apart from each other: the run record keeps only the type of values that may be private.
    arguments = [
        _named("other options", of, _DATA["harmless_arguments"]) if of else None
        for of in (run.arguments, run.logged_arguments)
    ]
    surroundings = {
        ("batch size", "world_size"): record.get("world_size"),
        **_named("data", record.get("data") or {}),
        **_named("software", record.get("versions") or {}, ("llava-vista", "python")),
    }
    return {
        "arguments": arguments[0],
        "TensorBoard": arguments[1],
        "surroundings": None if run.record is None else surroundings,
        "config": None if config is None else _named("model (config.json)", config, _DATA["harmless_config"]),
        "adapter": _named("LoRA (adapter_config.json)", lora),  # without this file there is no LoRA: a condition too
        # Each on its own: older versions of transformers write fewer of them.
        **{
            name: None if run.state.get(name) is None else {tuple(key): run.state[name]}
            for name, key in _DATA["state"].items()
        },
    }


def _named(topic: str, values: Mapping[str, Any], skipped: Sequence[str] = ()) -> Conditions:
    known = _TOPIC_OF if topic == "other options" else {}
    return {(known.get(name, topic), name): value for name, value in values.items() if name not in skipped}


def _sorted(value: Any) -> Any:
    """PEFT writes ``target_modules``, a set, in any order."""
    return sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value


def check_condition(topic: str, name: str, baseline: Sequence[Any], vista: Sequence[Any]) -> ConditionCheck:
    """Compare the values of all runs, which must be the same; of seeds only the sets must be."""
    recorded = [value for value in (*baseline, *vista) if value is not MISSING]
    is_complete = len(recorded) == len(baseline) + len(vista)
    if topic == "seed":
        same = not is_complete or sorted(map(_text, baseline)) == sorted(map(_text, vista))
    else:
        same = len(set(map(_text, recorded))) <= 1
    # Where two recorded values differ, an unrecorded third changes nothing.
    status = DIFFERS if not same else SAME if is_complete else UNKNOWN
    return ConditionCheck(topic, name, status, _shown(baseline), _shown(vista))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _shown(values: Sequence[Any]) -> str:
    """The different values of an arm, each on one line and cut where it is long."""
    texts = [
        NOT_RECORDED if value is MISSING else value if isinstance(value, str) else _text(value) for value in values
    ]
    return " / ".join(dict.fromkeys(text if len(text) <= 90 else f"{text[:60]}...{text[-25:]}" for text in texts))


def _learning_rates(baseline: Runs, vista: Runs) -> ConditionCheck:
    """Compare the logged learning rates: they show peak, warm-up, schedule and length at once."""
    key = "learning rate", "learning rate of every record"
    curves = [
        {record["step"]: record["learning_rate"] for record in run.log if "learning_rate" in record}
        for run in (*baseline, *vista)
    ]
    steps = sorted(set.intersection(*map(set, curves)))
    if not steps:
        return ConditionCheck(*key, UNKNOWN, NOT_RECORDED, NOT_RECORDED)
    for step in steps:
        rates = [curve[step] for curve in curves]
        if any(abs(rate - rates[0]) > 1e-6 * abs(rates[0]) for rate in rates):
            arms = rates[: len(baseline)], rates[len(baseline) :]
            return ConditionCheck(*key, DIFFERS, *(f"{_shown(arm)} at step {step}" for arm in arms))
    text = f"{len(steps)} records, peak {max(curves[0].values()):g}"
    return ConditionCheck(*key, SAME, text, text)


def _same_data(*runs: TrainingRun) -> list[ConditionCheck]:
    """Compare what two runs of one seed must share if they saw the same data in the same order."""
    flops = [run.state.get("total_flos") or None for run in runs]
    losses = [dict(zip(*run.series("ce_loss"), strict=True)).get(1) for run in runs]
    checks = []
    for name, values, tolerance, form in (
        ("tokens seen (total_flos)", flops, 0.0, ".8g"),
        ("cross-entropy of the first step (data, its order, initial weights)", losses, _FIRST_STEP_TOLERANCE, ".4f"),
    ):
        if None not in values:
            is_same = math.isclose(*values, rel_tol=tolerance, abs_tol=tolerance * 1e-3)
            texts = (format(value, form) for value in values)
            checks.append(ConditionCheck("data", name, SAME if is_same else DIFFERS, *texts))
    return checks
