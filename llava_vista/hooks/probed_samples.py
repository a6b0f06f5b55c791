"""Samples of decoder passes in evaluation mode: what the image adds to each, and what its state says of its text."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from .. import __version__
from ..attach.observation import Observation, Observer
from ..config import VistaConfig
from ..errors import ProbeError
from ..layout import SequenceLayout, Span
from ..objective import AlignmentHead, Text
from .image_information import Information, measure, output_head, slope_sums
from .run_record import versions

#: Last position of each bin; a position is the number of a token in its sample, from 1.
BIN_ENDS = tuple(2**power for power in range(16))


class ProbedSample(NamedTuple):
    """One sample with an image and supervised text.

    nats: (m,) what the image adds to each supervised token. number: of the sample in its batch.
    record: plain values for the JSON. Sums and numbers of tokens are by bin: ``nats`` and ``tokens`` of supervised
        tokens, ``cosine``, ``l2`` and ``text_tokens`` of all text tokens. ``slope_xy`` and ``slope_xx`` are of nats.
    """

    nats: Tensor
    number: int
    record: dict[str, Any]


class _Pass(NamedTuple):
    """One decoder pass: what its samples' records are made of."""

    text: Text
    anchors: Tensor
    information: Information
    alignment: list[dict[str, Any]]


class SampleProbe:
    """Measures the samples of each decoder pass, by one more pass without the image.

    Args:
        model: in evaluation mode.
        config: of the estimator that margin and own first are measured with.

    Attributes:
        left_out: the number of samples without an image or supervised text.
    """

    def __init__(self, model: nn.Module, config: VistaConfig) -> None:
        self._head = AlignmentHead(config).eval()
        self.observer = Observer(model, self)
        self._logits = output_head(self.observer.inner)
        self._passes: list[_Pass] = []
        self.left_out = 0

    def decoder_called(self, observation: Observation) -> None:
        """Do nothing: all is known when the decoder has returned."""

    def decoder_returned(self, observation: Observation) -> None:
        embeds, hidden, layout = observation.inputs_embeds, observation.last_hidden_state, observation.layout
        if hidden is None:
            raise ProbeError(f"a batch cannot be measured: {observation.problem}.")
        if embeds is None:
            self.left_out += len(hidden)
            return
        found = measure(self.observer, self._logits, observation)
        if observation.problem is not None or isinstance(found, str) or layout is None or observation.labels is None:
            raise ProbeError(f"a batch cannot be measured: {observation.problem or found}.")
        if found is None:
            self.left_out += layout.samples
            return
        with torch.no_grad():
            text = self._head.read_text(embeds, layout)
            anchors = self._head.anchor(hidden, layout, text)
            known = observation.token_ids if observation.token_ids is not None else observation.labels
            self._passes.append(_Pass(text, anchors, found, _alignments(embeds, anchors, layout, known)))

    def take(self, loss: Any) -> list[ProbedSample]:
        """Return the samples of the passes since the last call, and release them.

        Args:
            loss: the host's own cross-entropy of these passes; a tuple begins with it.
        """
        passes, self._passes = self._passes, []
        if not passes:
            return []
        way = _way_of_the_host(loss[0] if isinstance(loss, tuple) else loss, [one.information for one in passes])
        own = self._head.compare(torch.cat([one.anchors for one in passes]), Text.joined([one.text for one in passes]))
        compared = enumerate(zip(*(values.tolist() for values in own), strict=True))
        samples = []
        for one in passes:
            nats, of, number = one.information.nats[way], one.information.sample, one.information.number
            slopes = zip(*(sums.tolist() for sums in slope_sums(nats, of, number, len(one.alignment))), strict=True)
            for at, (alignment, (xy, xx)) in enumerate(zip(one.alignment, slopes, strict=True)):
                sample, (margin, first, chance, is_compared) = next(compared)
                mine = of == at
                if not bool(mine.any()):
                    self.left_out += 1
                    continue
                (sums,), tokens = binned(nats[mine][None], number[mine])
                record = {**alignment, "nats": sums, "tokens": tokens, "slope_xy": xy, "slope_xx": xx}
                for key, value in (("margin", margin), ("own_first", first), ("chance", chance)):
                    record[key] = value if is_compared else None
                samples.append(ProbedSample(nats[mine], sample, record))
        return samples


def _way_of_the_host(loss: Tensor, passes: list[Information]) -> int:
    """Return which of the K ways to make logits gives the host's own loss, or raise ProbeError where none does."""
    counts = torch.stack([one.supervised for one in passes])
    means = (torch.stack([one.cross_entropy for one in passes], dim=1) * counts).sum(dim=1) / counts.sum()  # (K,)
    if not bool(torch.isfinite(means).all()):
        raise ProbeError("the model's logits are NaN or infinite. Load it in float32; if they stay so, its weights are "
                         "broken.")  # fmt: skip
    found, tolerance = loss.detach().double().mean().to(means.device), max(one.tolerance for one in passes)
    off = (found - means).abs()
    way = int(off.argmin())
    if bool(off[way] > tolerance * means[way].abs()):
        raise ProbeError(
            f"the host's loss is {float(found):.6g}, and the cross-entropy of its output embeddings on the decoder's "
            f"output is {float(means[way]):.6g}: logits that are changed in another way than the configuration says, "
            "label smoothing, or another term in the loss. What the image adds cannot be measured here."
        )
    return way


def token_alignment(embeds: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
    """Return I of each text token (m, d) with S_n (d,), by cosine and by l2: (m,) float32 each."""
    embeds, anchor = embeds.float(), anchor.float().to(embeds.device)
    return cosine_similarity(embeds, anchor[None], dim=1), -(embeds - anchor).square().mean(dim=1)


def _alignments(embeds: Tensor, anchors: Tensor, layout: SequenceLayout, known: Tensor) -> list[dict[str, Any]]:
    """Return of each sample: a mark of its text, and its alignment by position of the text token."""
    spans = layout.spans or [Span(row, 0, layout.shape[1]) for row in range(layout.shape[0])]
    found = []
    for (row, start, stop), anchor in zip(spans, anchors, strict=True):
        at = layout.text[row, start:stop]
        ids = known[row, start:stop][at.to(known.device)].tolist()
        both = torch.stack(token_alignment(embeds[row, start:stop][at.to(embeds.device)], anchor))
        (cosine, l2), tokens = binned(both, torch.arange(1, len(ids) + 1, device=both.device))
        mark = f"{zlib.crc32(str(ids).encode()):08x}"
        found.append({"text": mark, "cosine": cosine, "l2": l2, "text_tokens": tokens})
    return found


def binned(values: Tensor, number: Tensor) -> tuple[list[list[float]], list[int]]:
    """Return sums (F, bins) of values (F, n), and tokens, in the bin of each number (n,), up to the last with one."""
    at = torch.bucketize(number, torch.tensor(BIN_ENDS, device=number.device)).clamp(max=len(BIN_ENDS) - 1).cpu()
    tokens = torch.bincount(at)
    sums = torch.zeros(len(values), len(tokens), dtype=torch.float64, device="cpu")
    return sums.index_add(1, at, values.double().cpu()).tolist(), tokens.tolist()


def make_record(model: Any, config: VistaConfig, samples: list[dict[str, Any]], /, **more: Any) -> dict[str, Any]:
    """Return what ``probe.json`` holds of a model: how it was measured, and its samples with their means."""
    tokens = sum(sum(sample["tokens"]) for sample in samples)
    xy, xx = (sum(sample[key] for sample in samples) for key in ("slope_xy", "slope_xx"))
    compared = [sample for sample in samples if sample["margin"] is not None]
    keys = ("margin", "own_first", "chance")
    return {
        "llava_vista": __version__,
        "versions": versions(),
        "class": type(model).__name__,
        "options": config.to_dict(),
        **more,
        "position": "number of the supervised (or text) token in its sample, from 1; a bin ends with `bin_ends`",
        "bin_ends": BIN_ENDS,
        "information": sum(sum(sample["nats"]) for sample in samples) / tokens,
        "slope": xy / xx if xx else None,
        "tokens": tokens,
        **{key: fmean(sample[key] for sample in compared) if compared else None for key in keys},
        "samples": samples,
    }


def write_json(folder: Path, name: str, content: dict[str, Any]) -> Path:
    """Write a file into the folder, which is made, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return folder / name
