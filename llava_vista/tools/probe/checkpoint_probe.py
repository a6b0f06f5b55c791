"""The checkpoints, probed one after the other on the same samples: a record of each, like a host script's."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ... import __version__
from ...config import VistaConfig
from ...errors import ConfigError, ProbeError
from ...hooks.probed_samples import SampleProbe, sample_means
from ...hooks.run_record import versions
from ...logging import say
from ..kit.timm_tower import TimmTower
from .answer_words import visual_marks, without_end
from .conversation_samples import Sample, Samples, load_samples, open_image
from .hosts import LoadOptions, ProbeHost, load_checkpoint
from .layer_readings import LayerReadings, attention_record
from .probe_options import RESAMPLES
from .record_comparison import compare
from .shared_neighbours import OWN_TOWER, SharedNeighbours

Record = dict[str, Any]


def probe_checkpoints(options: Namespace) -> None:
    """Probe every checkpoint on the same samples. Write ``probe.json`` and what `compare` makes of it.

    Raises:
        VistaError: naming what cannot be done, before the first checkpoint is loaded where that is possible.
    """
    how = _load_options(options)
    samples = load_samples(options.data, options.images, options.samples, options.seed)
    for reason, count in samples.passed_over.items():
        say(f"{count} records {reason} are passed over")
    if samples.own_answers:
        say("the data has no answers: every model writes its own (greedy), and is measured on those")
    named = zip(options.checkpoints, options.names, strict=True)
    records = [probe_checkpoint(path, name, samples, options, how) for path, name in named]
    options.output.mkdir(parents=True, exist_ok=True)
    file = options.output / "probe.json"
    file.write_text(json.dumps({"records": records}, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    compare([(record["name"], record) for record in records], options)
    print(f"Samples  {file}")


def _load_options(options: Namespace) -> LoadOptions:
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: {error}") from error
    default = "float32" if device.type == "cpu" else "bfloat16"
    return LoadOptions(options.base, options.template, device, getattr(torch, options.dtype or default))


def probe_checkpoint(path: Path, name: str, samples: Samples, options: Namespace, how: LoadOptions) -> Record:
    """Load a checkpoint, measure it, and return its record.

    Raises:
        ProbeError, UnsupportedModelError: the checkpoint cannot be loaded or measured, or no sample is left.
    """
    with_neighbours = "neighbours" in options.measures
    tower = TimmTower(options.tower, how.device) if options.tower and with_neighbours else None
    checkpoint, config = load_checkpoint(path, how), VistaConfig(weight=0)
    chosen, passed = samples.chosen, Counter(samples.passed_over)
    if samples.own_answers:
        chosen = tuple(_answered(checkpoint, chosen, options.max_new_tokens, name, passed))
    probe = SampleProbe(checkpoint.model, config)
    readings = LayerReadings(probe.observer, attention="attention" in options.measures, states=with_neighbours)
    neighbours = SharedNeighbours(RESAMPLES, options.seed, tower.name if tower else OWN_TOWER)
    records: list[Record] = []
    with torch.no_grad():
        for start in tqdm(range(0, len(chosen), options.batch_size), desc=f"probing {name}", unit="batch"):
            part = _Batch(checkpoint, chosen[start : start + options.batch_size])
            kept = part.measure(probe, readings)
            records += [{**record, "rank": 0, "batch": start // options.batch_size} for _, record in kept]
            if kept and with_neighbours:
                rows = [row for row, _ in kept]
                pictures = [open_image(sample.image) for sample in part.samples] if tower else []
                features = tower.features(pictures) if tower else checkpoint.tower_features(part.batch)
                states = [state[rows] for state in readings.states]
                neighbours.add([part.samples[row].image for row in rows], states, features[rows])
    readings.remove()
    probe.observer.remove()
    if len(records) < len(chosen):
        passed["without an answer token or an image position after tokenization"] += len(chosen) - len(records)
    if not records:
        reasons = "; ".join(f"{count} {reason}" for reason, count in passed.items())
        raise ProbeError(
            f"{path}: no sample is left to probe ({reasons}). If the answers are missing, the template may not fit the "
            "checkpoint: choose another with --template. If images are, shorten the conversations."
        )
    return {
        "name": name,
        "llava_vista": __version__,
        "versions": versions(),
        "model": str(path),
        "class": type(probe.observer.inner).__name__,
        "host": checkpoint.name,
        "adapter": probe.observer.adapter.name,
        **checkpoint.notes,
        "dtype": str(how.dtype).removeprefix("torch."),
        "answers": "the model's own, greedy" if samples.own_answers else "from the data",
        "passed_over": dict(passed),
        "options": {**config.to_dict(), "data": str(options.data), "samples": options.samples, "seed": options.seed},
        **sample_means(records),
        **({"neighbours": neighbours.record()} if with_neighbours else {}),
    }


class _Batch:
    """Some samples as a batch of the checkpoint, without those that have no answer token."""

    def __init__(self, checkpoint: ProbeHost, samples: Sequence[Sample]) -> None:
        self._checkpoint = checkpoint
        self.samples: list[Sample] = []
        encoded = []
        for sample in samples:
            item = checkpoint.encode(sample.turns, open_image(sample.image))
            if sample.turns[-1].cut:
                item["labels"] = without_end(item["labels"], checkpoint.decode)
            if bool((item["labels"] >= 0).any()):
                self.samples.append(sample)
                encoded.append(item)
        self.batch: dict[str, Any] = checkpoint.collate(encoded) if encoded else {}

    def measure(self, probe: SampleProbe, readings: LayerReadings) -> list[tuple[int, Record]]:
        """Run the batch; return row and record of each sample that could be measured."""
        if not self.batch:
            return []
        kept = probe.take(self._checkpoint.model(**self.batch).loss)
        records = []
        for nats, row, record in kept:
            sample = self.samples[row]
            more = self._words(sample, nats.cpu(), self.batch["labels"][row])
            if readings.attention:
                more |= attention_record(readings.attention, readings.layout, row)
            records.append((row, {"name": sample.name, **record, **more}))
        return records

    def _words(self, sample: Sample, nats: Tensor, labels: Tensor) -> Record:
        """Return the sums over words marked as visual and over the others, if the sample has marks."""
        if not any(turn.visual for turn in sample.turns):
            return {}
        marks = torch.tensor(visual_marks(labels, sample.turns, self._checkpoint.decode)[: len(nats)])
        return {
            f"{name}_{what}": float((nats.double() if what == "nats" else torch.ones_like(nats))[chosen].sum())
            for name, chosen in (("visual", marks), ("other", ~marks))
            for what in ("nats", "tokens")
        }


def _answered(
    checkpoint: ProbeHost, samples: Sequence[Sample], max_new_tokens: int, name: str, passed: Counter[str]
) -> Iterator[Sample]:
    """Yield the samples with the model's own answers. A later question is asked after the earlier answers."""
    for sample in tqdm(samples, desc=f"{name} answers", unit="sample"):
        image, turns = open_image(sample.image), list(sample.turns)
        for number, turn in enumerate(turns):
            text, cut = checkpoint.answer(turns[: number + 1], image, max_new_tokens)
            turns[number] = replace(turn, answer=text, cut=cut)
        if all(turn.answer for turn in turns):
            yield replace(sample, turns=tuple(turns))
        else:
            passed["with an empty answer of the model's own"] += 1
