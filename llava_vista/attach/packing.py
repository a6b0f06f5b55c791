"""Several samples in one row: where each begins, from the signals that collators send along, or after a merge.

The signals differ between tools (README.md in this folder). `Packing` reads them on the device and copies one byte per
position to the host, and only where a batch may be packed: for a boolean mask and no position ids nothing is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from ..errors import LayoutError
from ..layout import SequenceLayout, Span
from .host_copy import HostCopy

#: Arguments that hold the cumulative lengths of the samples, or the number of the sample at each position.
LENGTHS = ("cu_seq_lens_q", "cu_seqlens_q", "cu_seqlens", "cu_seq_lens", "cu_seq_lens_k", "cu_seqlens_k")
NUMBERS = ("seq_idx",)
#: All arguments that may say that rows hold several samples, or which positions are padding.
SIGNALS = ("attention_mask", "position_ids", *LENGTHS, *NUMBERS)


def attended(signals: Mapping[str, Any], shape: torch.Size, device: torch.device) -> Tensor:
    """Return which positions are no padding, as (B, L) bool.

    Raises:
        LayoutError: the attention mask does not say.
    """
    mask, lengths = _mask(signals), _lengths(signals, shape)
    if lengths is not None and (mask is None or (mask.ndim < 3 and mask.shape != shape)):
        return (torch.arange(shape.numel(), device=device) < lengths[-1].to(device)).view(shape)
    if mask is None:
        return torch.ones(shape, dtype=torch.bool, device=device)
    if mask.shape == shape:
        return mask.bool()
    if mask.ndim in (3, 4) and mask.shape[-2:] == (shape[1], shape[1]):
        return _allowed(mask).diagonal(dim1=-2, dim2=-1).expand(shape)
    raise LayoutError(
        f"attention_mask {tuple(mask.shape)} does not tell which of input_ids {tuple(shape)} are padding; (B, L), "
        "(B, 1, L, L) or cumulative lengths of packed samples were expected."
    )


def sample_starts(signals: Mapping[str, Any], shape: torch.Size, device: torch.device) -> Tensor | None:
    """Return where a signal says that a sample begins, as (B, L) bool; None where there is no such signal to look at.

    What names the samples itself (cumulative lengths, sample numbers) decides alone. A mask and position ids add up:
    a sample begins where either says so.
    """
    lengths = _lengths(signals, shape)
    if lengths is not None:
        if len(lengths) <= 2:
            return None  # one sample
        starts = torch.zeros(shape.numel() + 1, dtype=torch.bool, device=device)
        return starts.index_fill_(0, lengths.to(device).long(), True)[:-1].view(shape)
    for name in NUMBERS:
        if signals.get(name) is not None:
            numbers = _tensor(name, signals[name])
            if numbers.numel() != shape.numel():
                raise LayoutError(f"{name} {tuple(numbers.shape)} does not fit input_ids {tuple(shape)}.")
            numbers = numbers.view(shape).to(device)
            return _after_first(numbers[:, 1:] != numbers[:, :-1])
    by_mask, by_positions = _starts_by_mask(signals, shape), _starts_by_positions(signals, shape)
    if by_mask is None or by_positions is None:
        return by_positions if by_mask is None else by_mask
    return by_mask | by_positions


def _mask(signals: Mapping[str, Any]) -> Tensor | None:
    """Return the attention mask; of several by layer type (Gemma), the one of full attention.

    Raises:
        LayoutError: it is something else.
    """
    mask = signals.get("attention_mask")
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention", next(iter(mask.values()), None))
    if mask is not None and not isinstance(mask, Tensor):
        raise LayoutError(f"attention_mask is a {type(mask).__name__}; VISTA reads padding and samples from tensors.")
    return mask


def _tensor(name: str, value: Any) -> Tensor:
    """Return a signal as a tensor.

    Raises:
        LayoutError: it is none, and no list or array of numbers.
    """
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise LayoutError(f"{name} is a {type(value).__name__}, which does not tell samples in a row apart.") from error


def _lengths(signals: Mapping[str, Any], shape: torch.Size) -> Tensor | None:
    """Return the cumulative lengths of the samples (N + 1,), if the host passes them, also in the mask's place."""
    mask = _mask(signals)
    for name in LENGTHS:
        if signals.get(name) is not None:
            lengths = _tensor(name, signals[name])
            if lengths.numel() != max(lengths.shape, default=0):
                raise LayoutError(f"{name} {tuple(lengths.shape)} is no list of cumulative lengths (N + 1,).")
            return lengths.flatten()
    if mask is not None and mask.ndim == 1:
        return mask
    # InternVL chat passes (1, N + 1). Read on the host, but only where the mask has another shape than the ids.
    if mask is None or mask.ndim != 2 or len(mask) != 1 or mask.shape == shape:
        return None
    return mask[0] if mask[0, [0, -1]].tolist() == [0, shape.numel()] else None


def _allowed(mask: Tensor) -> Tensor:
    """Return where a 3-D or 4-D mask lets a position attend, as (B, L, L). Masks of floats are added to the scores."""
    mask = mask[:, 0] if mask.ndim == 4 else mask
    return mask > -1 if mask.dtype.is_floating_point else mask.bool()


def _after_first(starts: Tensor) -> Tensor:
    """(B, L - 1) of the positions after the first -> (B, L)."""
    return torch.nn.functional.pad(starts, (1, 0))


def _starts_by_mask(signals: Mapping[str, Any], shape: torch.Size) -> Tensor | None:
    mask = _mask(signals)
    if mask is None:
        return None
    if mask.ndim in (3, 4):
        if mask.shape[-2:] != (shape[1], shape[1]):
            raise LayoutError(f"attention_mask {tuple(mask.shape)} does not fit input_ids {tuple(shape)}.")
        return _after_first(~_allowed(mask).diagonal(offset=-1, dim1=-2, dim2=-1)).expand(shape)
    if mask.shape != shape or mask.dtype == torch.bool:
        return None
    # Samples are numbered: 1 1 2 2. Zeros between them are padding, so compare with the last number before.
    at = torch.arange(shape[1], device=mask.device)
    last = torch.where(mask != 0, at, 0).cummax(dim=1).values
    number = mask.gather(1, last)
    return _after_first((number[:, 1:] != number[:, :-1]) & (number[:, :-1] != 0))


def _starts_by_positions(signals: Mapping[str, Any], shape: torch.Size) -> Tensor | None:
    positions = signals.get("position_ids")
    if not isinstance(positions, Tensor) or positions.shape[-1] != shape[1]:
        return None
    if positions.ndim == 3:
        # Within an image single axes go back (or stand still: a text axis may be a copy of the temporal one), but only
        # a sample's first token is at 0 on all axes, or goes back on all.
        back = (positions[..., 1:] < positions[..., :-1]).all(dim=0)
        starts = (positions == 0).all(dim=0)[:, 1:] | back
    else:
        positions = positions.reshape(-1, shape[1])
        starts = (positions[:, 1:] < positions[:, :-1]) | (positions[:, 1:] == 0)
    return _after_first(starts).expand(shape)


class Packing:
    """The samples of each batch: `look` where the signals are known, `spans` where the layout is needed."""

    def __init__(self) -> None:
        self._copy = HostCopy()
        self._pending = False

    def look(self, signals: Mapping[str, Any], image: Tensor) -> None:
        """Start to read the signals of a batch.

        Args:
            signals: of `SIGNALS`, what the host passes.
            image: (B, L) bool, the image positions.
        """
        starts = sample_starts(signals, image.shape, image.device)
        self._pending = starts is not None
        if starts is not None:
            self._copy.start(starts.to(torch.uint8) + 2 * image.to(torch.uint8))

    def spans(self) -> tuple[Span, ...] | None:
        """Return the samples that hold an image; None where each row is one sample."""
        if not self._pending:
            return None
        self._pending = False
        marks = self._copy.read()  # (B, L): 1 a sample begins, 2 image
        starts, image = marks & 1, marks > 1
        if not starts[:, 1:].any():
            return None
        spans = []
        for row, begins in enumerate(starts):
            edges = [0, *(int(at) for at in begins[1:].nonzero()[0] + 1), len(begins)]
            spans += [Span(row, *pair) for pair in pairwise(edges) if image[row, slice(*pair)].any()]
        return tuple(spans) or (Span(0, 0, marks.shape[1]),)


def in_one_row(layout: SequenceLayout, merged: Tensor, embeds: Tensor, *, check: bool) -> SequenceLayout:
    """The layout of samples whose attended positions the host has put one behind another in a single row.

    Args:
        layout: masks (B, L) of the rows as they were merged.
        merged: (B, L, d) what the merge method returned.
        embeds: (1, P, d) what the decoder received.
        check: compare the two, which reads them on the host (first batch only).

    Returns:
        Masks (1, P), with a span for each sample.

    Raises:
        LayoutError: the row is not the samples one behind another.
    """
    attended_rows = layout.text | layout.image
    counts = attended_rows.sum(dim=1).tolist()
    ends = [0, *accumulate(counts)]
    # Attended positions first, in the order of the rows; `nonzero` would read the device a second time.
    order = (~attended_rows).flatten().to(torch.uint8).argsort(stable=True)[: ends[-1]]
    fits = embeds.shape[0] == 1 and embeds.shape[1] >= len(order)
    if not fits or (check and not torch.equal(embeds[0, : len(order)], merged.flatten(0, 1)[order])):
        raise LayoutError(
            f"the decoder got inputs_embeds {tuple(embeds.shape)}, but images were merged into {tuple(merged.shape)}, "
            f"of which {len(order)} positions are attended: the host has packed several samples into a row in a way "
            "that VISTA cannot follow (sequence parallelism?). Switch packing off."
        )

    def spread(mask: Tensor) -> Tensor:
        return torch.nn.functional.pad(mask.flatten()[order], (0, embeds.shape[1] - len(order)))[None]

    spans = tuple(Span(0, start, stop) for start, stop in pairwise(ends) if stop > start)
    answer = None if layout.answer is None else spread(layout.answer)
    return SequenceLayout(text=spread(layout.text), image=spread(layout.image), answer=answer, spans=spans or None)
