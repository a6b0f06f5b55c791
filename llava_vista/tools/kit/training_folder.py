"""A training's output directory: its log, and the files that say how it was configured.

``training_args.bin`` is not read: it is a pickle, and reading one runs whatever is in it.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ...hooks.run_record import FILE_NAME as RUN_RECORD
from .extras import requires_extra
from .json_files import BadFile, numbers_of, object_in, read_object
from .run_history import find_contradiction

STATE_FILE = "trainer_state.json"
#: The end of a training: this part of its records, and at least so many.
END_PART, END_RECORDS = 0.1, 3
_CHECKPOINT = re.compile(r"checkpoint-\d+")


@dataclass(frozen=True)
class TrainingRun:
    """What a training's directory holds. ``log`` has the records with a loss and a step; a missing file is None."""

    folder: Path
    state: dict[str, Any]
    log: list[dict[str, Any]]
    record: dict[str, Any] | None
    model_config: dict[str, Any] | None
    adapter_config: dict[str, Any] | None
    logged_arguments: dict[str, Any] | None = None  # the host's, by TensorBoard
    problems: list[str] = field(default_factory=list)

    @property
    def is_observed(self) -> bool:
        """Whether VISTA was attached: its keys are in the log."""
        return any("vista_loss" in record for record in self.log)

    @property
    def vista(self) -> dict[str, Any] | None:
        """VISTA's options, {} when it ran but they are not recorded, None when it did not act (off, or weight 0)."""
        config: dict[str, Any] | None = (self.record or {}).get("config")
        if config is not None:
            return config if config.get("weight", 1.0) else None
        return {} if self.is_observed else None

    @property
    def arguments(self) -> dict[str, Any]:
        """The host's training arguments, {} where ``vista.json`` has none."""
        return (self.record or {}).get("training_arguments") or {}

    @property
    def seed(self) -> int | None:
        seed = (self.arguments or self.logged_arguments or {}).get("seed")
        return seed if isinstance(seed, int) else None

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Return (optimizer steps, finite values) of ``ce_loss``, ``vista_loss`` or ``vista_similarity``.

        Without VISTA the cross-entropy (nats per token) is logged as ``loss``.
        """
        points = [(step, value) for step, value in self._logged(key) if math.isfinite(value)]
        return [step for step, _ in points], [value for _, value in points]

    def nonfinite_steps(self, key: str) -> list[int]:
        """Return the steps at which a series is NaN or infinite, which `series` leaves out."""
        return [step for step, value in self._logged(key) if not math.isfinite(value)]

    def _logged(self, key: str) -> list[tuple[int, float]]:
        values: dict[int, float] = {}
        for record in self.log:
            if key == "ce_loss":
                value = record.get("ce_loss", None if "vista_loss" in record else record["loss"])
            else:
                value = record.get(key) if record.get("vista_aligned_samples") else None
            if value is not None:
                values[int(record["step"])] = float(value)  # a resumed run may log a step twice: the later one counts
        return sorted(values.items())

    def values_at(self, key: str, steps: Sequence[int]) -> list[float]:
        """Return the values of a series at steps that it has."""
        points = dict(zip(*self.series(key), strict=True))
        return [points[step] for step in steps]


Runs = Sequence[TrainingRun]


def common_steps(runs: Runs, key: str = "ce_loss") -> list[int]:
    """Return the steps at which every run has a value."""
    steps = [set(run.series(key)[0]) for run in runs]
    return sorted(set.intersection(*steps)) if steps else []


def end_records(count: int) -> int:
    """Return how many of ``count`` records are the end of a training."""
    return max(END_RECORDS, round(END_PART * count))


def means_at_both_ends(values: Sequence[float]) -> tuple[float, float]:
    """Return the means of a series' first and of its last records; the two share none if there are several."""
    count = min(end_records(len(values)), max(1, len(values) // 2))
    return fmean(values[:count]), fmean(values[-count:])


def recorded_seed(*folders: Path) -> int | None:
    """Return the seed in the first of these folders that has a run record with one."""
    for folder in folders:
        with contextlib.suppress(BadFile):
            seed = object_in(read_object(folder / RUN_RECORD), "training_arguments").get("seed")
            if isinstance(seed, int):
                return seed
    return None


def looks_like_training(folder: Path) -> bool:
    """Return whether a training wrote here, be it complete or not."""
    names = {path.name for path in folder.iterdir()}
    known = names & {STATE_FILE, RUN_RECORD, "training_args.bin"}
    return bool(known or _event_files(folder) or any(map(_CHECKPOINT.fullmatch, names)))


def _event_files(folder: Path) -> list[Path]:
    """Return the event files of an output directory or of a logging directory, the oldest first (by their names)."""
    paths = [*folder.glob("events.out.tfevents.*"), *folder.glob("runs/*/events.out.tfevents.*")]
    return sorted(paths, key=lambda path: path.name)


def _read_tensorboard(folder: Path) -> dict[str, Any]:
    """Return the ``log_history`` in all event files, and the texts that transformers adds, by their tags.

    A later file counts from its first step on: it resumes a training, or is another one.
    """
    with requires_extra("tensorboard"):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    records: dict[int, dict[str, Any]] = {}
    texts: dict[str, dict[str, Any]] = {}
    for path in _event_files(folder):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0}).Reload()
        found: dict[int, dict[str, Any]] = defaultdict(dict)
        for tag in events.Tags()["scalars"]:
            if tag.startswith("train/"):
                for event in events.Scalars(tag):
                    found[event.step] |= {"step": event.step, tag.removeprefix("train/"): event.value}
        for tag in events.Tags()["tensors"]:
            with contextlib.suppress(ValueError, IndexError):  # other texts are no JSON
                texts[tag] = json.loads(events.Tensors(tag)[0].tensor_proto.string_val[0])
        if found:
            records = {step: record for step, record in records.items() if step < min(found)} | found
    return {**texts, "log_history": [records[step] for step in sorted(records)]}


def read_training(folder: Path) -> TrainingRun:
    """Read a training's output directory; BadFile without a usable log. Other bad files are in ``problems``."""
    path = _state_path(folder)
    if path is not None:
        content = read_object(path)
    elif events := _event_files(folder):
        path, content = events[-1], _read_tensorboard(folder)
    else:
        raise BadFile(
            f"{folder} has no {STATE_FILE}, neither at its top nor in a checkpoint-N, and no event file of "
            "TensorBoard: the training did not reach its first checkpoint, or the file was not copied along."
        )
    entries = content.get("log_history")
    records = [numbers_of(entry) for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    log = [record for record in records if "loss" in record and isinstance(record.get("step"), int)]
    if not log:
        raise BadFile(f"{path} has no training record (loss and step): was logging off?")
    problems: list[str] = []

    def optional(name: str) -> dict[str, Any] | None:
        for place in dict.fromkeys((folder / name, path.parent / name)):
            if place.is_file():
                try:
                    return read_object(place)
                except BadFile as error:
                    problems.append(str(error))
        return None

    record, state = optional(RUN_RECORD), numbers_of(content)
    is_final = path == folder / STATE_FILE and not _CHECKPOINT.fullmatch(folder.name)
    reason = None if record is None else find_contradiction(record, state, log, path.stat().st_mtime, is_final)
    if reason:
        problems.append(
            f"{folder}/{RUN_RECORD} is not of the training in {path.name}: {reason}. It is not used; was the directory "
            "used for another training before?"
        )
    return TrainingRun(
        folder,
        state,
        log,
        record=None if reason else record,
        model_config=optional("config.json") or content.get("model_config/text_summary"),
        adapter_config=optional("adapter_config.json"),
        logged_arguments=content.get("args/text_summary"),
        problems=problems,
    )


def _state_path(folder: Path) -> Path | None:
    """Return the ``trainer_state.json`` at the top, or in the newest ``checkpoint-N``."""
    if (folder / STATE_FILE).is_file():
        return folder / STATE_FILE
    found = [path for path in folder.glob(f"checkpoint-*/{STATE_FILE}") if _CHECKPOINT.fullmatch(path.parent.name)]
    return max(found, key=lambda path: int(path.parent.name.removeprefix("checkpoint-")), default=None)
