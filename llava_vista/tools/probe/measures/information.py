"""Visual information: what the image tells about each answer token, given the tokens before it.

    v_t = log p(y_t | image, y_<t) - log p(y_t | no image, y_<t)      in nats

Positive: the image made the token likelier. Averaged over given answers it is a difference of two cross-entropies, the
one without the image minus the one with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ....errors import ProbeError
from ..bootstrap import Bootstrap, slope_sums, stack
from ..data import Sample, Turn
from ..looking import Seen
from ..results import curve_record, estimate_record


def answer_log_probs(seen: Seen, labels: Tensor, names: Sequence[str]) -> list[Tensor]:
    """log p of each answer token, in order.

    Args:
        seen: logits (B, L, V) and layout (B, L).
        labels: (B, T) as they went in: the id at answer tokens, negative elsewhere.
        names: of the B samples, for messages.

    Returns:
        B tensors (m_i,) float32 on the CPU; m_i is shorter than the answer where the sequence was truncated.

    Raises:
        ProbeError: a logit is not finite, or the answer does not fit the layout.
    """
    if seen.layout.answer is None:
        raise ProbeError("the layout does not say which tokens are answer; the model's adapter must pass labels on.")
    found = []
    for row, (answer, ids) in enumerate(zip(seen.layout.answer, labels, strict=True)):
        at = answer.nonzero().squeeze(1)  # (m,)
        wanted = ids[ids >= 0]
        if len(at) > len(wanted) or (len(at) and int(at[0]) == 0):
            raise ProbeError(
                f"sample {names[row]}: {len(at)} answer positions for {len(wanted)} answer tokens, the first at "
                f"{at[:1].tolist()}; the layout of this model is not understood."
            )
        logits = seen.logits[row, at - 1].float()  # (m, V): what stands before a token predicts it
        if not bool(torch.isfinite(logits.logsumexp(dim=-1)).all()):
            raise ProbeError(
                f"sample {names[row]}: the model's logits are NaN or infinite. Try --dtype float32; if they stay so, "
                "the checkpoint's weights are broken."
            )
        scored = logits.log_softmax(dim=-1).gather(1, wanted[: len(at), None].to(logits.device)).squeeze(1)
        found.append(scored.cpu())
    return found


def visual_tokens(ids: Sequence[int], phrases: Sequence[str], decode: Callable[[Sequence[int]], str]) -> list[bool]:
    """Which tokens of an answer belong to an occurrence of one of the phrases (whole words, any case).

    Args:
        ids: the answer's tokens.
        decode: ids to text. A token's place in the text is where the decoded text grows by it, which needs no support
            from the tokenizer. (The bytes of one character all decode to a stand-in until the last has come.)
    """
    text = decode(ids)
    ends = [_shared(decode(ids[: count + 1]), text) for count in range(len(ids))]
    spans = [
        match.span() for phrase in phrases for match in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.I)
    ]
    starts = [0, *ends[:-1]]
    return [
        any(start < last and end > first and text[max(start, first) : min(end, last)].strip() for first, last in spans)
        for start, end in zip(starts, ends, strict=True)
    ]


def _shared(left: str, right: str) -> int:
    """How many characters two texts begin with in common."""
    differing = (number for number, (one, other) in enumerate(zip(left, right, strict=False)) if one != other)
    return next(differing, min(len(left), len(right)))


class VisualInformation:
    """Collects v_t of each sample; per sample it keeps one number and one flag an answer token."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.marks: list[Tensor] = []
        self.marked = False

    def add(
        self,
        samples: Sequence[Sample],
        seen: Seen,
        blind: Seen,
        labels: Tensor,
        blind_labels: Tensor,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        """One batch, looked at with and without its images."""
        names = [sample.name for sample in samples]
        with_image = answer_log_probs(seen, labels, names)
        without = answer_log_probs(blind, blind_labels, names)
        for sample, known, guessed, ids in zip(samples, with_image, without, labels, strict=True):
            length = min(len(known), len(guessed))  # another image may have more tokens, and truncate more of the text
            self.values.append(known[:length] - guessed[:length])
            self.marks.append(self._marks(sample, ids, length, decode))

    def _marks(self, sample: Sample, labels: Tensor, length: int, decode: Callable[[Sequence[int]], str]) -> Tensor:
        """(length,) bool: tokens that belong to words marked as visual."""
        if not any(turn.visual for turn in sample.turns):
            return torch.zeros(length, dtype=torch.bool)
        self.marked = True
        flags: list[bool] = []
        runs = answer_runs(labels)
        for turn, ids in zip(turns_of_runs(runs, sample.turns, decode), runs, strict=True):
            flags += visual_tokens(ids, turn.visual, decode) if turn and turn.visual else [False] * len(ids)
        return torch.tensor(flags[:length])

    def record(self, bootstrap: Bootstrap, no_image: str) -> dict[str, Any]:
        """The results, for the JSON."""
        values, marks = stack(self.values), stack([mark.double() for mark in self.marks]) > 0
        present = values.isfinite()
        sums = values.nan_to_num()

        def mean(chosen: Tensor) -> dict[str, Any]:
            chosen = chosen & present
            estimate = bootstrap.ratio((sums * chosen).sum(dim=1), chosen.sum(dim=1).double())
            return {**estimate_record(estimate), "tokens": int(chosen.sum())}

        return {
            "unit": "nats per token",
            "no_image": no_image,
            "position": "number of the answer token, counted through all answers of a sample, from 1",
            "curve": curve_record(bootstrap.curve(values)),
            "slope": {
                **estimate_record(bootstrap.ratio(*slope_sums(values))),
                "unit": "nats per token per position",
                "meaning": "within samples: each sample keeps its own level",
            },
            "mean": mean(present),
            "mean_on_visual_words": mean(marks) if self.marked else None,
            "mean_on_other_words": mean(~marks) if self.marked else None,
        }


def turns_of_runs(
    runs: Sequence[Sequence[int]], turns: Sequence[Turn], decode: Callable[[Sequence[int]], str]
) -> list[Turn | None]:
    """Which turn's answer each run of supervised tokens is; None for runs that are none.

    There are as many runs as turns, or fewer where the sequence was truncated. LLaVA-NeXT also supervises the marks of
    its chat format, which are runs of their own: there an answer is told by its words.
    """
    if len(runs) <= len(turns):
        return list(turns[: len(runs)])
    found: list[Turn | None] = []
    waiting = list(turns)
    for ids in runs:
        answers = waiting and _words(waiting[0].answer or "") in _words(decode(ids))
        found.append(waiting.pop(0) if answers else None)
    return found


def _words(text: str) -> str:
    return " ".join(text.split())


def answer_runs(labels: Tensor) -> list[list[int]]:
    """The answers' token ids, one list for each unbroken run of labels (T,)."""
    runs: list[list[int]] = []
    before = False
    for label in labels.tolist():
        if label >= 0:
            if not before:
                runs.append([])
            runs[-1].append(label)
        before = label >= 0
    return runs
