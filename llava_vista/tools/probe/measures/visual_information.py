"""Visual information: what the image contributes to each answer token, given the tokens before it.

    v_t = log p(y_t | image, y_<t) - log p(y_t | no image, y_<t)      in nats

Positive: the image made the token likelier. Its mean over given answers is the cross-entropy without the image minus
the one with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ....errors import ProbeError
from ..bootstrap import Bootstrap, slope_sums, stack
from ..conversation_samples import Sample, Turn
from ..forward_trace import Trace
from ..probed_batch import ProbedBatch

Decode = Callable[[Sequence[int]], str]


def answer_log_probs(trace: Trace, labels: Tensor, names: Sequence[str]) -> list[Tensor]:
    """Return log p of each answer token, in order: B tensors (m_i,) float32 on the CPU.

    m_i is smaller than the answer where the sequence was truncated.

    Args:
        labels: (B, T) as they went in: the id at answer tokens, negative elsewhere.
        names: of the B samples, for messages.

    Raises:
        ProbeError: a logit is not finite, or the answer does not fit the layout.
    """
    if trace.layout.answer is None:
        raise ProbeError("the layout does not name the answer tokens; the model's adapter must pass labels on.")
    scores = []
    for row, (answer, ids) in enumerate(zip(trace.layout.answer, labels, strict=True)):
        at = answer.nonzero().squeeze(1)  # (m,)
        wanted = ids[ids >= 0]
        if len(at) > len(wanted) or (len(at) and int(at[0]) == 0):
            raise ProbeError(
                f"sample {names[row]}: {len(at)} answer positions for {len(wanted)} answer tokens, the first at "
                f"{at[:1].tolist()}. The layout of this model is misread: it needs an adapter of its own."
            )
        logits = trace.logits[row, at - 1].float()  # (m, V): the position before a token predicts it
        if not bool(torch.isfinite(logits.logsumexp(dim=-1)).all()):
            raise ProbeError(
                f"sample {names[row]}: the model's logits are NaN or infinite. Try --dtype float32; if they stay so, "
                "the checkpoint's weights are broken."
            )
        log_probs = logits.log_softmax(dim=-1)
        scores.append(log_probs.gather(1, wanted[: len(at), None].to(logits.device)).squeeze(1).cpu())
    return scores


def visual_tokens(ids: Sequence[int], phrases: Sequence[str], decode: Decode) -> list[bool]:
    """Return which tokens of an answer belong to an occurrence of one of the phrases (whole words, any case).

    A token's place in the text is where the decoded text grows by it, so the tokenizer needs no offsets. (The bytes of
    one character all decode to a replacement character until the last of them.)
    """
    text = decode(ids)
    ends = [_common_length(decode(ids[: count + 1]), text) for count in range(len(ids))]
    spans = [
        match.span() for phrase in phrases for match in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.I)
    ]
    return [
        any(start < last and end > first and text[max(start, first) : min(end, last)].strip() for first, last in spans)
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def _common_length(left: str, right: str) -> int:
    """Return how many characters two texts begin with in common."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(left), len(right)))


def answer_runs(labels: Tensor) -> list[list[int]]:
    """Return the answers' token ids: one list for each unbroken run of non-negative labels (T,)."""
    return [list(run) for is_answer, run in groupby(labels.tolist(), lambda label: label >= 0) if is_answer]


def turns_of_runs(runs: Sequence[Sequence[int]], turns: Sequence[Turn], decode: Decode) -> list[Turn | None]:
    """Return the turn whose answer each run of supervised tokens is; None for runs that are none.

    There are as many runs as turns, or fewer where the sequence was truncated. LLaVA-NeXT also supervises the marks of
    its chat format, which are runs of their own: there an answer is recognised by its words.
    """
    if len(runs) <= len(turns):
        return list(turns[: len(runs)])
    found: list[Turn | None] = []
    waiting = list(turns)
    for ids in runs:
        is_answer = waiting and _one_spaced(waiting[0].answer or "") in _one_spaced(decode(ids))
        found.append(waiting.pop(0) if is_answer else None)
    return found


def _one_spaced(text: str) -> str:
    return " ".join(text.split())


class VisualInformation:
    """Collects v_t of each sample; per sample it keeps one number and one flag an answer token.

    Args:
        no_image: what the image is compared with, in words.
    """

    def __init__(self, no_image: str) -> None:
        self.no_image = no_image
        self.values: list[Tensor] = []
        self.marks: list[Tensor] = []
        self.is_marked = False

    def add(self, batch: ProbedBatch) -> None:
        names = [sample.name for sample in batch.samples]
        with_image = answer_log_probs(batch.trace, batch.labels, names)
        without = answer_log_probs(*batch.without_image, names)
        for sample, seen, blind, ids in zip(batch.samples, with_image, without, batch.labels, strict=True):
            length = min(len(seen), len(blind))  # another image may have more tokens, and truncate more of the text
            self.values.append(seen[:length] - blind[:length])
            self.marks.append(self._marks(sample, ids, length, batch.decode))

    def _marks(self, sample: Sample, labels: Tensor, length: int, decode: Decode) -> Tensor:
        """Return (length,) bool: tokens that belong to words marked as visual."""
        if not any(turn.visual for turn in sample.turns):
            return torch.zeros(length, dtype=torch.bool)
        self.is_marked = True
        flags: list[bool] = []
        runs = answer_runs(labels)
        for turn, ids in zip(turns_of_runs(runs, sample.turns, decode), runs, strict=True):
            flags += visual_tokens(ids, turn.visual, decode) if turn and turn.visual else [False] * len(ids)
        return torch.tensor(flags[:length])

    def record(self, bootstrap: Bootstrap) -> dict[str, Any]:
        values, marks = stack(self.values), stack([mark.double() for mark in self.marks]) > 0  # (N, T)
        present = values.isfinite()
        sums = values.nan_to_num()

        def mean(chosen: Tensor) -> dict[str, Any]:
            chosen = chosen & present
            estimate = bootstrap.ratio((sums * chosen).sum(dim=1), chosen.sum(dim=1).double())
            return {**estimate.record(), "tokens": int(chosen.sum())}

        return {
            "unit": "nats per token",
            "no_image": self.no_image,
            "position": "number of the answer token, counted through all answers of a sample, from 1",
            "curve": bootstrap.curve(values).record(),
            "slope": {
                **bootstrap.ratio(*slope_sums(values)).record(),
                "unit": "nats per token per position",
                "meaning": "within samples: each sample keeps its own level",
            },
            "mean": mean(present),
            "mean_on_visual_words": mean(marks) if self.is_marked else None,
            "mean_on_other_words": mean(~marks) if self.is_marked else None,
        }
