"""Which positions of the decoder's sequence are text, image and padding, and how that is found out.

Where the processor puts one placeholder token per image row into ``input_ids``, the ids tell (`from_placeholders`).

Hosts that replace an image placeholder by image features inside the model ("merge methods") carry ``labels`` along
with the text and fill image positions with a negative value. So the labels' place can carry a code for each text token:
what comes back names, for every merged position, the original token, and an attended position without a code is image.
Nothing here knows how many tokens an image has, or by which id a placeholder goes.

Shapes: B batch, T length of ``input_ids``, L length of the merged sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import LayoutError


class Span(NamedTuple):
    """The positions ``start`` to ``stop`` (exclusive) of a row: one sample among several that share the row."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class SequenceLayout:
    """Boolean masks over the merged sequence; what is neither text nor image is padding.

    Args:
        text: (B, L) bool, every text token: system prompt, question, template, answer, BOS.
        image: (B, L) bool, every image position.
        answer: (B, L) bool, the supervised text tokens; needed by ``text_scope="answer"`` only.
        spans: the samples, where rows hold several (packing); positions outside of all spans count for none of them.
            None: each row is one sample.

    Raises:
        LayoutError: the masks are not boolean (B, L) tensors of one shape, or a span is not within a row.
    """

    text: Tensor
    image: Tensor
    answer: Tensor | None = None
    spans: tuple[Span, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("text", "image", "answer"):
            mask = getattr(self, name)
            if mask is None and name == "answer":
                continue
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 2:
                found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
                raise LayoutError(f"SequenceLayout.{name} must be a boolean (B, L) tensor, got {found}.")
            if mask.shape != self.text.shape:
                raise LayoutError(
                    f"SequenceLayout.{name} is {tuple(mask.shape)}, but text is {tuple(self.text.shape)}."
                )
        if self.text.shape[1] == 0:
            raise LayoutError(f"SequenceLayout.text is {tuple(self.text.shape)}: rows without a position.")
        if self.spans is None:
            return
        rows, length = self.text.shape
        spans = tuple(Span(*span) for span in self.spans)
        if not spans or not all(0 <= row < rows and 0 <= start < stop <= length for row, start, stop in spans):
            raise LayoutError(
                f"SequenceLayout.spans {self.spans} are not (row, start, stop) within masks {tuple(self.text.shape)}; "
                "at least one was expected."
            )
        object.__setattr__(self, "spans", spans)

    @property
    def shape(self) -> torch.Size:
        return self.text.shape

    @property
    def samples(self) -> int:
        """Number of samples: rows, or spans."""
        return self.text.shape[0] if self.spans is None else len(self.spans)
