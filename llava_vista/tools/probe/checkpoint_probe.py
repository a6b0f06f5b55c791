"""The checkpoints, probed one after the other on the same samples, and the files that come of it.

Each batch is run with and without its images. "No image" leaves the text at its positions and has three meanings:

masked    Image positions are masked out of attention: the language model on the text alone, at the same position ids.
          The model may never have been trained so.
blank     A uniform grey image of the same size: an unusual input, which still says "an image".
shuffled  Another sample's image: an ordinary input that says something false. A false image costs more than none, so
          values are larger than with the others.
"""

from __future__ import annotations

import importlib.util
import json
import random
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ... import __version__
from ...errors import ConfigError, ProbeError
from ...hooks.run_record import versions
from ...logging import say
from .bootstrap import Bootstrap
from .conversation_samples import Sample, Samples, load_samples, open_image
from .forward_trace import Tracer, tracing
from .hosts import LoadOptions, ProbeHost, load_checkpoint
from .measures import Measure, ProbedBatch
from .measures.alignment_curves import AlignmentCurves
from .measures.image_attention import ImageAttention
from .measures.shared_neighbours import SharedNeighbours
from .measures.visual_information import VisualInformation
from .probe_options import NO_IMAGE, RESAMPLES, recorded_options
from .probe_panels import draw
from .probe_table import results_table
from .timm_tower import TimmTower

_IGNORE = -100  # torch's own value for labels that do not count
_GREY = (127, 127, 127)


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
    chosen, passed = samples.chosen, Counter(samples.passed_over)
    if samples.own_answers:
        chosen = tuple(_answered(checkpoint, chosen, options.max_new_tokens, name, passed))
    with tracing(checkpoint.model, checkpoint.run) as tracer:
        probe = _CheckpointProbe(checkpoint, tracer, options, chosen, how.device)
        for start in tqdm(range(0, len(chosen), options.batch_size), desc=f"probing {name}", unit="batch"):
            probe.add(chosen[start : start + options.batch_size])
        if dropped := len(chosen) - probe.used:
            passed["without an answer token after tokenization"] += dropped
        if not probe.used:
            reasons = "; ".join(f"{count} {reason}" for reason, count in passed.items())
            raise ProbeError(
                f"{path}: no sample is left to probe ({reasons}). If the answers are missing, the template may not fit "
                "the checkpoint: choose another with --template."
            )
        bootstrap = Bootstrap(probe.used, RESAMPLES, options.seed)
        return {
            "name": name,
            "path": str(path),
            "host": checkpoint.name,
            "adapter": tracer.observer.adapter.name,
            "model_class": type(tracer.observer.inner).__name__,
            **checkpoint.notes,
            "dtype": str(how.dtype).removeprefix("torch."),
            "answers": "the model's own, greedy" if samples.own_answers else "from the data",
            "samples": {"used": probe.used, "passed_over": dict(passed)},
            **{measure: collected.record(bootstrap) for measure, collected in probe.measures.items()},
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


def without_end(labels: Tensor, decode: Callable[[Sequence[int]], str]) -> Tensor:
    """Return labels (T,) of an answer that was cut off, without its end: the model did not write that it ends there.

    The end is the last label, and the labels before it that add no text: a chat turn may end with two tokens.
    """
    at = (labels >= 0).nonzero().squeeze(1)
    ids = labels[at].tolist()
    keep = max(0, len(ids) - 1)
    words = decode(ids[:keep]).rstrip()
    while keep > 0 and decode(ids[: keep - 1]).rstrip() == words:
        keep -= 1
    return labels.index_fill(0, at[keep:], _IGNORE)


class _CheckpointProbe:
    """The measures of one checkpoint, and the forward passes that they need."""

    def __init__(
        self,
        checkpoint: ProbeHost,
        tracer: Tracer,
        options: Namespace,
        samples: Sequence[Sample],
        device: torch.device,
    ) -> None:
        self.checkpoint, self.tracer, self.no_image = checkpoint, tracer, options.no_image
        self.used = 0
        self.tower = TimmTower(options.tower, device) if options.tower and "neighbours" in options.measures else None
        tower = self.tower.name if self.tower else "the checkpoint's own, before the projector, mean over its positions"
        known: dict[str, Callable[[], Measure]] = {
            "information": lambda: VisualInformation(f"{self.no_image}: {NO_IMAGE[self.no_image]}"),
            "alignment": AlignmentCurves,
            "attention": ImageAttention,
            "neighbours": lambda: SharedNeighbours(tower, RESAMPLES, options.seed),
        }
        self.measures = {name: known[name]() for name in options.measures}
        shuffled = "information" in self.measures and self.no_image == "shuffled"
        self.other = exchanged_images([sample.image for sample in samples], options.seed) if shuffled else {}

    def add(self, samples: Sequence[Sample]) -> None:
        """Run and measure one batch. Samples without an answer token are left out."""
        pictures = [open_image(sample.image) for sample in samples]
        items = [(sample, image, self._encode(sample, image)) for sample, image in zip(samples, pictures, strict=True)]
        items = [item for item in items if bool((item[2]["labels"] >= 0).any())]
        if not items:
            return
        samples, pictures = [item[0] for item in items], [item[1] for item in items]
        self.used += len(samples)
        batch = self.checkpoint.collate([item[2] for item in items])
        trace = self.tracer.trace(batch, attention="attention" in self.measures, states="neighbours" in self.measures)
        blind = blind_labels = features = None
        if "information" in self.measures:
            blind_batch = batch if self.no_image == "masked" else self._with_other_images(samples, pictures)
            blind, blind_labels = self.tracer.trace(blind_batch, blind=blind_batch is batch), blind_batch["labels"]
        if "neighbours" in self.measures:
            with torch.no_grad():
                features = self.tower.features(pictures) if self.tower else self.checkpoint.tower_features(batch)
        probed = ProbedBatch(samples, trace, batch["labels"], self.checkpoint.decode, blind, blind_labels, features)
        for measure in self.measures.values():
            measure.add(probed)

    def _encode(self, sample: Sample, picture: Image.Image) -> dict[str, Any]:
        encoded = self.checkpoint.encode(sample.turns, picture)
        if sample.turns[-1].cut:
            encoded["labels"] = without_end(encoded["labels"], self.checkpoint.decode)
        return encoded

    def _with_other_images(self, samples: Sequence[Sample], pictures: Sequence[Image.Image]) -> dict[str, Any]:
        if self.no_image == "blank":
            others = [Image.new("RGB", picture.size, _GREY) for picture in pictures]
        else:
            others = [open_image(self.other[sample.image]) for sample in samples]
        return self.checkpoint.collate([self._encode(*pair) for pair in zip(samples, others, strict=True)])


def exchanged_images(images: Sequence[Path], seed: int) -> dict[Path, Path]:
    """Return for each distinct image another one, each used once: a random cycle through all of them.

    Raises:
        ProbeError: fewer than two distinct images.
    """
    distinct = sorted(set(images))
    if len(distinct) < 2:
        raise ProbeError("--no-image shuffled needs at least two different images.")
    random.Random(seed).shuffle(distinct)
    return dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))
