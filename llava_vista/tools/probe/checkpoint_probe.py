"""The checkpoints, probed one after the other on the same samples, and the files that come of it."""

from __future__ import annotations

import importlib.util
import json
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ... import __version__
from ...errors import ConfigError, ProbeError
from ...hooks.run_record import versions
from ...logging import say
from .bootstrap import Bootstrap
from .conversation_samples import Sample, Samples, load_samples, open_image
from .forward_trace import Tracer
from .hosts import LoadOptions, ProbeHost, load_checkpoint
from .measures.alignment_curves import AlignmentCurves
from .measures.image_attention import ImageAttention
from .measures.shared_neighbours import SharedNeighbours, TimmTower
from .measures.visual_information import VisualInformation
from .probe_options import NO_IMAGE, RESAMPLES, recorded_options
from .probe_panels import draw
from .probe_table import results_table
from .probed_batch import CheckpointRun, ProbedBatch, exchanged_images


def run_probe(options: Namespace) -> None:
    """Probe every checkpoint on the same samples. Write ``probe.json``, ``probe.png`` and ``probe.svg``.

    Raises:
        VistaError: naming what cannot be done, before the first checkpoint is loaded where that is possible.
    """
    can_draw = importlib.util.find_spec("matplotlib") is not None
    if not can_draw:
        say("matplotlib is not installed: no figure, only JSON. For the figure: pip install 'llava-vista[plots]'")
    how = _load_options(options)
    samples = load_samples(options.data, options.images, options.samples, options.seed)
    for reason, count in samples.passed_over.items():
        say(f"{count} records {reason} are passed over")
    if samples.own_answers:
        say("the data has no answers: every model writes its own (greedy), and is measured on those")
    options.output.mkdir(parents=True, exist_ok=True)
    named = zip(options.checkpoints, options.names, strict=True)
    record = {
        "llava_vista": __version__,
        "versions": versions(),
        "options": recorded_options(options),
        "checkpoints": [probe_checkpoint(path, name, samples, options, how) for path, name in named],
    }
    numbers, figures = options.output / "probe.json", [options.output / f"probe.{kind}" for kind in ("png", "svg")]
    numbers.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(f"{results_table(record)}\n\nNumbers  {numbers}")
    if can_draw:
        draw(record, figures)
        print(f"Figure   {', '.join(map(str, figures))}")


def _load_options(options: Namespace) -> LoadOptions:
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"--device {name}: {error}") from error
    default = "float32" if device.type == "cpu" else "bfloat16"
    return LoadOptions(options.base, options.template, device, getattr(torch, options.dtype or default))


def probe_checkpoint(path: Path, name: str, samples: Samples, options: Namespace, how: LoadOptions) -> dict[str, Any]:
    """Load a checkpoint, measure it, and return its record for the JSON.

    Raises:
        ProbeError, UnsupportedModelError: the checkpoint cannot be loaded or traced, or no sample is left.
    """
    checkpoint = load_checkpoint(path, how)
    chosen, passed, used = samples.chosen, Counter(samples.passed_over), 0
    if samples.own_answers:
        chosen = tuple(_answered(checkpoint, chosen, options.max_new_tokens, name, passed))
    measures = _measures(options, how.device)
    shuffled = "information" in measures and options.no_image == "shuffled"
    other = exchanged_images([sample.image for sample in chosen], options.seed) if shuffled else {}
    with Tracer(checkpoint.model, checkpoint.run) as tracer:
        run = CheckpointRun(checkpoint, tracer, options, other)
        for start in tqdm(range(0, len(chosen), options.batch_size), desc=f"probing {name}", unit="batch"):
            batch = ProbedBatch(run, chosen[start : start + options.batch_size])
            used += len(batch.samples)
            for measure in measures.values() if batch.samples else ():
                measure.add(batch)
    if used < len(chosen):
        passed["without an answer token after tokenization"] += len(chosen) - used
    if not used:
        reasons = "; ".join(f"{count} {reason}" for reason, count in passed.items())
        raise ProbeError(
            f"{path}: no sample is left to probe ({reasons}). If the answers are missing, the template may not fit the "
            "checkpoint: choose another with --template."
        )
    bootstrap = Bootstrap(used, RESAMPLES, options.seed)
    return {
        "name": name,
        "path": str(path),
        "host": checkpoint.name,
        "adapter": tracer.observer.adapter.name,
        "model_class": type(tracer.observer.inner).__name__,
        **checkpoint.notes,
        "dtype": str(how.dtype).removeprefix("torch."),
        "answers": "the model's own, greedy" if samples.own_answers else "from the data",
        "samples": {"used": used, "passed_over": dict(passed)},
        **{key: measure.record(bootstrap) for key, measure in measures.items()},
    }


def _measures(options: Namespace, device: torch.device) -> dict[str, Any]:
    """Return the chosen measures by their name in the JSON. Each has ``add(batch)`` and ``record(bootstrap)``."""
    tower = TimmTower(options.tower, device) if options.tower and "neighbours" in options.measures else None
    known = {
        "information": VisualInformation(f"{options.no_image}: {NO_IMAGE[options.no_image]}"),
        "alignment": AlignmentCurves(),
        "attention": ImageAttention(),
        "neighbours": SharedNeighbours(tower, RESAMPLES, options.seed),
    }
    return {name: known[name] for name in options.measures}


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
