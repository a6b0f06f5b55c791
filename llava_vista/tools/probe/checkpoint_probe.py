"""The checkpoints, probed one after the other on the same samples: a record of each, like a host script's."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...config import VistaConfig
from ...errors import ConfigError, ProbeError
from ...hooks.probed_samples import SampleProbe, make_record, write_json
from ...logging import say
from ..kit.timm_tower import TimmTower
from .bootstrap import RESAMPLES
from .conversation_samples import Sample, Samples, load_samples, open_image, visual_marks, without_end
from .hosts import LoadOptions, ProbeHost, load_checkpoint
from .layer_readings import LayerReadings, attention_record
from .record_comparison import Record, compare
from .shared_neighbours import OWN_TOWER, SharedNeighbours


def probe_checkpoints(options: Namespace) -> None:
    """Probe every checkpoint on the same samples. Write ``probe.json``, and compare the checkpoints."""
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: {error}") from error
    dtype = getattr(torch, options.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    how = LoadOptions(options.base, options.template, device, dtype)
    samples = load_samples(options.data, options.images, options.samples, options.seed)
    for reason, count in samples.passed_over.items():
        say(f"{count} records {reason} are passed over")
    if samples.own_answers:
        say("the data has no answers: every model writes its own (greedy), and is measured on those")
    named = zip(options.checkpoints, options.names, strict=True)
    records = [probe_checkpoint(path, name, samples, options, how) for path, name in named]
    file = write_json(options.output, "probe.json", {"records": records})
    compare([(record["name"], record) for record in records], options)
    print(f"Samples  {file}")


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
            part, batch = _encode(checkpoint, chosen[start : start + options.batch_size])
            kept = probe.take(checkpoint.model(**batch).loss) if part else []
            for nats, row, record in kept:
                head = {"name": part[row].name, "rank": 0, "batch": start // options.batch_size}
                words = _words(part[row], nats.cpu(), batch["labels"][row], checkpoint)
                records.append({**head, **record, **words})
                if readings.attention:
                    records[-1] |= attention_record(readings.attention, readings.layout, row)
            if kept and with_neighbours:
                rows = [row for _, row, _ in kept]
                images = [part[row].image for row in rows]
                pictures = [open_image(image) for image in images] if tower else []
                features = tower.features(pictures) if tower else checkpoint.tower_features(batch)[rows]
                neighbours.add(images, [state[rows] for state in readings.states], features)
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
    more: Record = {"name": name, "model": str(path), "host": checkpoint.name, "adapter": probe.observer.adapter.name}
    more |= {**checkpoint.notes, "dtype": str(how.dtype).removeprefix("torch."), "passed_over": dict(passed)}
    more["answers"] = "the model's own, greedy" if samples.own_answers else "from the data"
    source = {"data": str(options.data), "samples": options.samples, "seed": options.seed}
    more["options"] = {**config.to_dict(), **source}
    if with_neighbours:
        more["neighbours"] = neighbours.record()
    return make_record(probe.observer.inner, config, records, **more)


def _encode(checkpoint: ProbeHost, samples: Sequence[Sample]) -> tuple[list[Sample], dict[str, Any]]:
    """Return the samples that have an answer token, and their batch."""
    kept, encoded = [], []
    for sample in samples:
        item = checkpoint.encode(sample.turns, open_image(sample.image))
        if sample.turns[-1].cut:
            item["labels"] = without_end(item["labels"], checkpoint.decode)
        if bool((item["labels"] >= 0).any()):
            kept.append(sample)
            encoded.append(item)
    return kept, checkpoint.collate(encoded) if encoded else {}


def _words(sample: Sample, nats: Tensor, labels: Tensor, checkpoint: ProbeHost) -> Record:
    """Return the sums over words marked as visual and over the others, if the sample has marks."""
    sums: Record = {}
    if any(turn.visual for turn in sample.turns):
        marks = torch.tensor(visual_marks(labels, sample.turns, checkpoint.decode)[: len(nats)])
        for what, chosen in (("visual", marks), ("other", ~marks)):
            sums[f"{what}_nats"] = float(nats.double()[chosen].sum())
            sums[f"{what}_tokens"] = float(chosen.sum())
    return sums


def _answered(
    checkpoint: ProbeHost, samples: Sequence[Sample], max_new_tokens: int, name: str, passed: Counter[str]
) -> Iterator[Sample]:
    """Yield the samples with the model's own answers. A later question is asked after the earlier answers."""
    for sample in tqdm(samples, desc=f"{name} answers", unit="sample"):
        image, turns = open_image(sample.image), list(sample.turns)
        for number, turn in enumerate(turns):
            text, cut = checkpoint.answer(turns[: number + 1], image, max_new_tokens)
            turns[number] = turn._replace(answer=text, cut=cut)
        if all(turn.answer for turn in turns):
            yield sample._replace(turns=tuple(turns))
        else:
            passed["with an empty answer of the model's own"] += 1
