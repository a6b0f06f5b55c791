"""Does anything but VISTA differ between the arms? Every setting that the files record, compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .arguments import HARMLESS, TOPICS
from .training import TrainingRun

Settings = dict[tuple[str, str], Any]

SAME, DIFFERS, UNKNOWN = "same", "differs", "unknown"
NOT_RECORDED = "not recorded"

#: Parts of config.json that say where a model lies or who wrote it, not what it is.
_CONFIG_HARMLESS = frozenset({"transformers_version", "use_cache", "tokenizer_padding_side"})
_ADAPTER_KEYS = ("base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "bias", "target_modules")
#: (topic, setting) that a reader must be told about even where nothing records it.
_REQUIRED = (
    ("batch size", "gradient_accumulation_steps"),
    ("batch size", "world_size"),
    ("data", "data_path"),
    ("seed", "seed"),
)
_ORDER = (
    "batch size",
    "data",
    "seed",
    "learning rate",
    "length",
    "model (config.json)",
    "LoRA (adapter_config.json)",
    "other options",
    "software",
)
STATE = "state"
_MISSING: Any = object()
#: The first step's cross-entropy comes before VISTA's first update; kernels and rounding (4 digits) stay below this.
_FIRST_STEP_TOLERANCE = 5e-3


@dataclass(frozen=True)
class Check:
    """One setting: the same on both sides, different, or not recorded somewhere."""

    topic: str
    name: str
    status: str
    baseline: str
    vista: str

    def sentence(self) -> str:
        """For a list of differences."""
        return f"{self.topic}: {self.name} is {self.baseline} in the baseline, {self.vista} with VISTA"


def show(value: Any) -> str:
    """A value on one line, cut where it is long."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 90 else f"{text[:60]}...{text[-25:]}"


def _sources(run: TrainingRun) -> dict[str, Settings | None]:
    """What each of a run's files records: {source: {(topic, name): value}}, None for a file that is not there."""
    record, state, config = run.record, run.state, run.model_config
    arguments = {
        (TOPICS.get(name, "other options"), name): value
        for name, value in run.arguments.items()
        if name not in HARMLESS
    }
    surroundings = None
    if record is not None:
        surroundings = {
            ("batch size", "world_size"): record.get("world_size"),
            **{("data", name): value for name, value in (record.get("data") or {}).items()},
            **{
                ("software", package): version
                for package, version in (record.get("versions") or {}).items()
                if package not in ("llava-vista", "python")
            },
        }
    adapter = run.adapter_config or {}
    return {
        "arguments": arguments or None,
        "surroundings": surroundings,
        STATE: {
            ("batch size", "train_batch_size (per device)"): state.get("train_batch_size"),
            ("length", "max_steps (trainer_state.json)"): state.get("max_steps"),
            ("length", "num_train_epochs (trainer_state.json)"): state.get("num_train_epochs"),
            ("length", "steps trained"): state.get("global_step"),
        },
        "config": None
        if config is None
        else {("model (config.json)", name): value for name, value in config.items() if name not in _CONFIG_HARMLESS},
        # No such file means no LoRA, which is a setting too.
        "adapter": {("LoRA (adapter_config.json)", name): _sorted(adapter.get(name)) for name in _ADAPTER_KEYS},
    }


def _sorted(value: Any) -> Any:
    """PEFT writes ``target_modules``, a set, in any order."""
    return sorted(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else value


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _shown(values: Sequence[Any]) -> str:
    return " / ".join(dict.fromkeys(NOT_RECORDED if value is _MISSING else show(value) for value in values))


def _check(topic: str, name: str, baseline: Sequence[Any], vista: Sequence[Any]) -> Check:
    """Every run's value must be the same; of seeds only the sets must be."""
    recorded = [value for value in (*baseline, *vista) if value is not _MISSING]
    complete = len(recorded) == len(baseline) + len(vista)
    if topic == "seed":
        same = not complete or sorted(map(_key, baseline)) == sorted(map(_key, vista))
    else:
        same = len(set(map(_key, recorded))) <= 1
    # Where two recorded values differ, an unrecorded third changes nothing.
    status = DIFFERS if not same else SAME if complete else UNKNOWN
    return Check(topic, name, status, _shown(baseline), _shown(vista))


def _compare_source(source: str, before: Sequence[Settings | None], after: Sequence[Settings | None]) -> list[Check]:
    keys = dict.fromkeys(key for settings in (*before, *after) for key in settings or {})
    checks = []
    for key in keys:
        # null in a file that is there is a value like any other
        arms = [[_MISSING if run is None else run.get(key) for run in arm] for arm in (before, after)]
        if source == STATE:  # older versions of transformers write less into it
            arms = [[_MISSING if value is None else value for value in arm] for arm in arms]
        if any(value not in (_MISSING, None) for arm in arms for value in arm):
            checks.append(_check(*key, *arms))
    return checks


def _learning_rates(baseline: Sequence[TrainingRun], vista: Sequence[TrainingRun]) -> Check:
    """The logged learning rates, step by step: they show peak, warm-up, schedule and length at once."""
    topic, name = "learning rate", "learning rate of every record"
    curves = [
        {record["step"]: record["learning_rate"] for record in run.log if "learning_rate" in record}
        for run in (*baseline, *vista)
    ]
    steps = sorted(set.intersection(*map(set, curves)))
    if not steps:
        return Check(topic, name, UNKNOWN, NOT_RECORDED, NOT_RECORDED)
    first = curves[0]
    for step in steps:
        values = [curve[step] for curve in curves]
        if any(abs(value - first[step]) > 1e-6 * abs(first[step]) for value in values):
            before, after = values[: len(baseline)], values[len(baseline) :]
            return Check(topic, name, DIFFERS, f"{_shown(before)} at step {step}", f"{_shown(after)} at step {step}")
    text = f"{len(steps)} records, peak {max(first.values()):g}"
    return Check(topic, name, SAME, text, text)


def _evidence(baseline: TrainingRun, vista: TrainingRun) -> list[Check]:
    """What two runs of one seed must share if they saw the same data in the same order."""
    checks = []
    flops = [run.state.get("total_flos") for run in (baseline, vista)]
    if all(flops):
        status = SAME if flops[0] == flops[1] else DIFFERS
        checks.append(Check("data", "tokens seen (total_flos)", status, f"{flops[0]:.8g}", f"{flops[1]:.8g}"))
    first = [dict(zip(*run.series("ce_loss"), strict=True)).get(1) for run in (baseline, vista)]
    if first[0] is not None and first[1] is not None:
        close = abs(first[0] - first[1]) <= _FIRST_STEP_TOLERANCE * max(abs(first[0]), 1e-3)
        name = "cross-entropy of the first step (data, its order, initial weights)"
        checks.append(Check("data", name, SAME if close else DIFFERS, f"{first[0]:.4f}", f"{first[1]:.4f}"))
    return checks


def compare_settings(baseline: Sequence[TrainingRun], vista: Sequence[TrainingRun]) -> list[Check]:
    """Compare all runs of both arms, setting by setting. VISTA's own options are not among them."""
    before, after = [_sources(run) for run in baseline], [_sources(run) for run in vista]
    checks = [_learning_rates(baseline, vista)]
    for source in before[0]:
        checks += _compare_source(source, [run[source] for run in before], [run[source] for run in after])
    if len(baseline) == len(vista) == 1:
        checks += _evidence(baseline[0], vista[0])
    found = {(check.topic, check.name) for check in checks}
    checks += [Check(*key, UNKNOWN, NOT_RECORDED, NOT_RECORDED) for key in _REQUIRED if key not in found]
    return sorted(checks, key=lambda check: _ORDER.index(check.topic))
