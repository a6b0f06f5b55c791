"""The run record (``vista.json``) held against the log beside it: whose it is, and what its resumed parts did."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from .json_files import is_number, numbers_of, object_in

#: Logged values have 4 digits; the difference of two of them that are equal stays below this.
_ROUNDING = 1.5e-4
#: Seconds by which the clocks of two machines may differ.
_CLOCKS = 600
#: Arguments that a resumed training may change without changing a number.
_HARMLESS = frozenset(("output_dir", "logging_dir", "run_name", "resume_from_checkpoint", "overwrite_output_dir"))


def find_contradiction(
    record: dict[str, Any], state: dict[str, Any], log: Sequence[dict[str, Any]], written: float, is_final: bool
) -> str | None:
    """Return what in the log cannot come from the training that a run record describes; None when all of it can.

    ``state`` is ``trainer_state.json``, or what stands for it; its file was ``written`` at that time (seconds; a copy
    may be younger, and never older), at the end of the training (``is_final``) or with a checkpoint.
    """
    if reason := _malformed(record) or _wrong_terms(record, log):
        return reason
    arguments = numbers_of(record.get("training_arguments") or {})
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    peak = arguments.get("learning_rate")
    if rates and peak and max(rates) > peak * (1 + 1e-6) and not record.get("history"):
        return f"it records the learning rate {peak:g}, and the log has {max(rates):g}"
    for name in ("max_steps", "logging_steps"):
        value, found = arguments.get(name), state.get(name)
        if value is not None and value >= 1 and found is not None and found != value:
            return f"it records {name} {value:g}, and trainer_state.json has {found:g}"
    return _wrong_steps(record, state, log, written, is_final)


def _malformed(record: dict[str, Any]) -> str | None:
    """Return which part of a run record is not of the kind that llava-vista writes."""
    for name in ("config", "training_arguments", "versions", "data"):
        if not isinstance(record.get(name), dict | None):
            return f"its {name} is {record[name]!r}"
    config = record.get("config")
    if config is not None and not (is_number(config.get("weight")) and isinstance(config.get("method"), str)):
        return f"its config has the method {config.get('method')!r} and the weight {config.get('weight')!r}"
    return None


def _wrong_terms(record: dict[str, Any], log: Sequence[dict[str, Any]]) -> str | None:
    """Hold VISTA's terms in the log against the record: they are there, and added with the recorded weight."""
    config = record.get("config")
    if config is None:
        return None
    weight = config["weight"]
    covered = [entry for entry in log if entry["step"] > _step(_parts(record)[0])]
    without = [entry["step"] for entry in covered if not {"vista_loss", "vista_aligned_samples"} & entry.keys()]
    if without and (weight or len(without) == len(covered)):  # weight 0 may stop observing, and trains on
        where = f" at steps {without[0]} to {without[-1]}" if len(without) < len(log) else ""
        return f"it records VISTA ({config.get('method')}, weight {weight:g}), and the log has no vista_loss{where}"
    added = [
        (entry["loss"] - entry["ce_loss"], entry["vista_loss"])
        for entry in log
        if entry["step"] > _step(record)
        and entry.get("vista_aligned_samples")
        and {"ce_loss", "vista_loss"} <= entry.keys()
    ]
    if weight and added and all(abs(term) < _ROUNDING < abs(weight * loss) / 10 for term, loss in added):
        return f"it records the weight {weight:g}, and loss and ce_loss of the log are equal"
    squares = sum(loss * loss for _, loss in added)
    acted = sum(term * loss for term, loss in added) / squares if squares else 0.0  # the weight, by least squares
    rest, total = sum((term - acted * loss) ** 2 for term, loss in added), sum(term * term for term, _ in added)
    if not weight and abs(acted) > 0.05 and rest < 0.05 * total:
        return f"it records the weight 0, and loss and ce_loss of the log differ by {acted:.2g} vista_loss"
    return None


def _wrong_steps(
    record: dict[str, Any], state: dict[str, Any], log: Sequence[dict[str, Any]], written: float, is_final: bool
) -> str | None:
    """Hold the record's steps and times against the log's. Records of earlier versions of llava-vista have none."""
    started, last = record.get("started"), record.get("last_step")
    if not isinstance(started, str):
        return None
    reached = max(_step(state, "global_step"), *(entry["step"] for entry in log))
    if isinstance(last, int) and (reached > last or (is_final and reached < last)):
        return f"it is of a training that ended at step {last} ({record.get('finished')}), and the log's at {reached}"
    if last is None and is_final and reached >= (_step(state, "max_steps") or reached + 1):
        return f"it is of a training that did not end (started {started}), and the log is of one that did"
    try:
        begun = datetime.fromisoformat(started)
    except ValueError:
        return None
    if reached > _step(record) and written + _CLOCKS < begun.timestamp():
        when = datetime.fromtimestamp(written, timezone.utc).isoformat(timespec="seconds")
        return f"it is of a training that started {started}, and the log was written before, {when}"
    return None


def describe_parts(record: dict[str, Any] | None, log: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """Return what a training that was resumed changed: VISTA's options, and other arguments."""
    parts = _parts(record or {})
    options: list[str] = []
    others: list[str] = []
    if first := _step(parts[0]):
        was_on = any("vista_loss" in entry for entry in log if entry["step"] <= first)
        how = "with VISTA's options not recorded" if was_on else "without VISTA"
        options.append(f"up to step {first} it was trained {how}")
    for before, after in pairwise(parts):
        step = _step(after)
        if changed := _changes(before, after, "config"):
            options.append(f"at step {step} it was resumed with other options of VISTA: {changed}")
        if changed := _changes(before, after, "training_arguments"):
            others.append(f"at step {step} it was resumed with other arguments: {changed}")
    return options, others


def _changes(first: dict[str, Any], second: dict[str, Any], part: str) -> str:
    before, after = object_in(first, part), object_in(second, part)
    names = [name for name in before if name in after and name not in _HARMLESS]  # another version may have others
    return ", ".join(f"{name} {before[name]} -> {after[name]}" for name in names if before[name] != after[name])


def _parts(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the record's parts, the first one's first: a resumed training has several."""
    history = record.get("history")
    return [*(part for part in (history if isinstance(history, list) else []) if isinstance(part, dict)), record]


def _step(content: dict[str, Any], name: str = "first_step") -> int:
    step = content.get(name)
    return step if isinstance(step, int) else 0
