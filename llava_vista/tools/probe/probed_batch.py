"""One batch of samples, run with and without its images: what the measures read.

"No image" leaves the text at its positions and has three meanings:

masked    Image positions are masked out of attention: the language model on the text alone, at the same position ids.
          The model may never have been trained so.
blank     A uniform grey image of the same size: an unusual input, which still says "an image".
shuffled  Another sample's image: an ordinary input that says something false. A false image costs more than none, so
          values are larger than with the others.
"""

from __future__ import annotations

import random
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ...errors import ProbeError
from .conversation_samples import Sample, open_image
from .forward_trace import Trace, Tracer
from .hosts import ProbeHost

_IGNORE = -100  # torch's own value for labels that do not count
_GREY = (127, 127, 127)


class CheckpointRun(NamedTuple):
    """What all batches of a checkpoint share.

    Attributes:
        other: by image another one, for ``--no-image shuffled``.
    """

    checkpoint: ProbeHost
    tracer: Tracer
    options: Namespace
    other: dict[Path, Path]

    def encode(self, sample: Sample, picture: Image.Image) -> dict[str, Any]:
        """Return the sample for `ProbeHost.collate`, without the end of an answer that was cut off."""
        encoded = self.checkpoint.encode(sample.turns, picture)
        if sample.turns[-1].cut:
            encoded["labels"] = without_end(encoded["labels"], self.checkpoint.decode)
        return encoded


class ProbedBatch:
    """A batch, run with its images at once and without them when a measure asks for it.

    Samples without an answer token are left out: ``samples`` may be empty, and then nothing was run.

    Attributes:
        trace: the pass with the images.
        labels: (B, T) the id at answer tokens, negative elsewhere.
    """

    trace: Trace
    labels: Tensor

    def __init__(self, run: CheckpointRun, samples: Sequence[Sample]) -> None:
        self._run, self.decode = run, run.checkpoint.decode
        encoded = [
            (sample, image, run.encode(sample, image)) for sample in samples for image in [open_image(sample.image)]
        ]
        kept = [item for item in encoded if bool((item[2]["labels"] >= 0).any())]
        self.samples, self.pictures = [item[0] for item in kept], [item[1] for item in kept]
        if kept:
            self._batch = run.checkpoint.collate([item[2] for item in kept])
            self.labels, wanted = self._batch["labels"], run.options.measures
            self.trace = run.tracer.trace(self._batch, attention="attention" in wanted, states="neighbours" in wanted)

    @cached_property
    def without_image(self) -> tuple[Trace, Tensor]:
        """The pass without the images, and its labels: with another image the text may be truncated elsewhere."""
        if self._run.options.no_image == "masked":
            return self._run.tracer.trace(self._batch, blind=True), self.labels
        if self._run.options.no_image == "blank":
            others = [Image.new("RGB", picture.size, _GREY) for picture in self.pictures]
        else:
            others = [open_image(self._run.other[sample.image]) for sample in self.samples]
        encoded = [self._run.encode(*pair) for pair in zip(self.samples, others, strict=True)]
        batch = self._run.checkpoint.collate(encoded)
        return self._run.tracer.trace(batch), batch["labels"]

    @torch.no_grad()
    def tower_features(self) -> Tensor:
        """Return (B, d_vision): the images as the checkpoint's own vision tower has them."""
        return self._run.checkpoint.tower_features(self._batch)


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
