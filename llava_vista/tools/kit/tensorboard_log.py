"""A training's log in TensorBoard's event files, as transformers writes them (``--report_to tensorboard``)."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

from .extras import requires_extra


class TensorBoardLog(NamedTuple):
    """Records by step with the keys of ``log_history``, and the texts that transformers adds; None where it did not."""

    log_history: list[dict[str, Any]]
    arguments: dict[str, Any] | None
    model_config: dict[str, Any] | None


def event_files(folder: Path) -> list[Path]:
    """Return the event files of an output directory or of a logging directory, the oldest first (by their names)."""
    paths = [*folder.glob("events.out.tfevents.*"), *folder.glob("runs/*/events.out.tfevents.*")]
    return sorted(paths, key=lambda path: path.name)


def read_tensorboard(folder: Path) -> TensorBoardLog:
    """Read all event files. A later one counts from its first step on: it resumes a training, or is another one."""
    with requires_extra("tensorboard"):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    records: dict[int, dict[str, Any]] = {}
    texts: dict[str, dict[str, Any]] = {}
    for path in event_files(folder):
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
    history = [records[step] for step in sorted(records)]
    return TensorBoardLog(history, texts.get("args/text_summary"), texts.get("model_config/text_summary"))
