"""One checkpoint, looked at batch by batch: what is kept between batches are a few numbers a token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from ...errors import ProbeError
from .blinding import blank, others
from .bootstrap import Bootstrap
from .data import Sample, Samples
from .hosts import LoadOptions, Subject, load_subject
from .looking import Looker, looking_at
from .measures import Alignment, Attention, Neighbours, VisualInformation
from .plan import NO_IMAGE, RESAMPLES, Plan
from .towers import TimmTower

if TYPE_CHECKING:
    from PIL.Image import Image

#: torch's own value for labels that do not count
_IGNORE = -100


def open_image(path: Path) -> Image:
    """The image as RGB.

    Raises:
        ProbeError: the file is not an image.
    """
    from PIL import Image as images
    from PIL import UnidentifiedImageError

    try:
        with images.open(path) as image:
            picture: Image = image.convert("RGB")
            return picture
    except (UnidentifiedImageError, OSError) as error:
        raise ProbeError(f"{path} cannot be read as an image: {error}.") from error


def examine(checkpoint: Path, name: str, samples: Samples, plan: Plan, options: LoadOptions) -> dict[str, Any]:
    """Load a checkpoint and measure it.

    Returns:
        its record for the JSON.

    Raises:
        ProbeError, UnsupportedModelError: the checkpoint cannot be loaded or looked into, or no sample is left.
    """
    host, subject = load_subject(checkpoint, options)
    tower = TimmTower(plan.tower, options.device) if plan.tower and "neighbours" in plan.measures else None
    chosen, passed = samples.chosen, Counter(samples.passed_over)
    if samples.own_answers:
        chosen = tuple(_answered(subject, chosen, plan.max_new_tokens, name, passed))
    with looking_at(subject.model, subject.run) as looker:
        examination = _Examination(subject, looker, plan, tower, chosen, passed)
        for start in tqdm(range(0, len(chosen), plan.batch_size), desc=f"probing {name}", unit="batch"):
            examination.add(chosen[start : start + plan.batch_size])
        if not examination.used:
            raise ProbeError(
                f"{checkpoint}: no sample is left to probe ("
                + "; ".join(f"{count} {reason}" for reason, count in passed.items())
                + "). If answers got lost, the template may not fit the checkpoint: --template."
            )
        return {
            "name": name,
            "path": str(checkpoint),
            "host": host,
            "adapter": looker.handle.adapter.name,
            "model_class": type(looker.handle.inner).__name__,
            **subject.notes,
            "dtype": str(options.dtype).removeprefix("torch."),
            "answers": "the model's own, greedy" if samples.own_answers else "from the data",
            "samples": {"used": examination.used, "passed_over": dict(passed)},
            **examination.record(),
        }


def _answered(
    subject: Subject, samples: Sequence[Sample], max_new_tokens: int, name: str, passed: Counter[str]
) -> Iterator[Sample]:
    """The samples with the model's own answers; a question after an answer is asked with that answer before it."""
    for sample in tqdm(samples, desc=f"{name} answers", unit="sample"):
        image, turns = open_image(sample.image), list(sample.turns)
        for number, turn in enumerate(turns):
            text, cut = subject.answer(turns[: number + 1], image, max_new_tokens)
            turns[number] = replace(turn, answer=text, cut=cut)
        if all(turn.answer for turn in turns):
            yield replace(sample, turns=tuple(turns))
        else:
            passed["with an empty answer of the model's own"] += 1


def without_end(labels: Tensor, decode: Callable[[Sequence[int]], str]) -> Tensor:
    """Labels (T,) of an answer that was cut off, without what ends it: the model did not say that it ends there.

    That is the last label, and what else adds nothing to read: the end of a chat turn may be two tokens.
    """
    at = (labels >= 0).nonzero().squeeze(1)
    ids = labels[at].tolist()
    keep = max(0, len(ids) - 1)
    words = decode(ids[:keep]).rstrip()
    while keep > 0 and decode(ids[: keep - 1]).rstrip() == words:
        keep -= 1
    found = labels.clone()
    found[at[keep:]] = _IGNORE
    return found


class _Examination:
    """The measures of one checkpoint, and what each batch needs to feed them."""

    def __init__(
        self,
        subject: Subject,
        looker: Looker,
        plan: Plan,
        tower: TimmTower | None,
        samples: Sequence[Sample],
        passed: Counter[str],
    ) -> None:
        self.subject, self.looker, self.plan, self.tower, self.passed = subject, looker, plan, tower, passed
        self.used = 0
        wanted = set(plan.measures)
        self.information = VisualInformation() if "information" in wanted else None
        self.alignment = Alignment() if "alignment" in wanted else None
        self.attention = Attention() if "attention" in wanted else None
        towers_name = tower.name if tower else "the checkpoint's own, before the projector, mean over its positions"
        self.neighbours = Neighbours(towers_name) if "neighbours" in wanted else None
        shuffled = self.information is not None and plan.no_image == "shuffled"
        self.other = others([sample.image for sample in samples], plan.seed) if shuffled else {}

    def add(self, samples: Sequence[Sample]) -> None:
        """Look at one batch."""
        pictures = [open_image(sample.image) for sample in samples]
        encoded = [self._encode(*pair) for pair in zip(samples, pictures, strict=True)]
        kept = [index for index, item in enumerate(encoded) if bool((item["labels"] >= 0).any())]
        if len(kept) < len(samples):
            self.passed["without an answer token after tokenization"] += len(samples) - len(kept)
            samples, pictures = [samples[i] for i in kept], [pictures[i] for i in kept]
            encoded = [encoded[i] for i in kept]
        if not samples:
            return
        self.used += len(samples)
        batch = self.subject.collate(encoded)
        seen = self.looker.look(batch, attention=self.attention is not None, states=self.neighbours is not None)
        if self.alignment is not None:
            self.alignment.add(seen)
        if self.attention is not None:
            self.attention.add(seen)
        if self.neighbours is not None:
            with torch.no_grad():
                features = self.tower.features(pictures) if self.tower else self.subject.tower_features(batch)
            self.neighbours.add(samples, seen.states, features)
        if self.information is not None:
            blind_batch = self._without_image(batch, samples, pictures)
            blind = self.looker.look(blind_batch, blind=blind_batch is batch)
            labels, blind_labels = batch["labels"], blind_batch["labels"]
            self.information.add(samples, seen, blind, labels, blind_labels, self.subject.decode)

    def _encode(self, sample: Sample, picture: Image) -> dict[str, Any]:
        encoded = self.subject.encode(sample.turns, picture)
        if sample.turns[-1].cut:
            encoded["labels"] = without_end(encoded["labels"], self.subject.decode)
        return encoded

    def _without_image(
        self, batch: dict[str, Any], samples: Sequence[Sample], pictures: Sequence[Image]
    ) -> dict[str, Any]:
        """The batch to be looked at without its images; ``batch`` itself where attention is masked instead."""
        if self.plan.no_image == "masked":
            return batch
        if self.plan.no_image == "blank":
            replaced = [blank(picture) for picture in pictures]
        else:
            replaced = [open_image(self.other[sample.image]) for sample in samples]
        return self.subject.collate([self._encode(*pair) for pair in zip(samples, replaced, strict=True)])

    def record(self) -> dict[str, Any]:
        """What was measured."""
        bootstrap = Bootstrap(self.used, RESAMPLES, self.plan.seed)
        found: dict[str, Any] = {}
        if self.information is not None:
            no_image = f"{self.plan.no_image}: {NO_IMAGE[self.plan.no_image]}"
            found["information"] = self.information.record(bootstrap, no_image)
        if self.alignment is not None:
            found["alignment"] = self.alignment.record(bootstrap)
        if self.attention is not None:
            found["attention"] = self.attention.record(bootstrap)
        if self.neighbours is not None:
            found["neighbours"] = self.neighbours.record(RESAMPLES, self.plan.seed)
        return found
