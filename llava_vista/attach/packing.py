"""Several samples in one row, where the host put them there itself, after merging images into text."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LayoutError
from ..layout import SequenceLayout


def in_one_row(layout: SequenceLayout, merged: Tensor, embeds: Tensor, *, check: bool) -> SequenceLayout:
    """The layout of samples whose attended positions stand one behind another in a single row.

    Args:
        layout: masks (B, L) of the rows as they were merged.
        merged: (B, L, d) what the merge method returned.
        embeds: (1, P, d) what the decoder received.
        check: compare the two, which reads them on the host (first batch only).

    Returns:
        Masks (B, P): each sample's, over the row that all of them share.

    Raises:
        LayoutError: the row is not the samples one behind another.
    """
    sample, position = (layout.text | layout.image).nonzero(as_tuple=True)  # (N,) each, in the order of the rows
    fits = embeds.shape[0] == 1 and embeds.shape[1] >= len(sample)
    if not fits or (check and not torch.equal(embeds[0, : len(sample)], merged[sample, position])):
        raise LayoutError(
            f"the decoder got inputs_embeds {tuple(embeds.shape)}, but images were merged into {tuple(merged.shape)}, "
            f"of which {len(sample)} positions are attended: the host has packed several samples into a row in a way "
            "that VISTA cannot follow (sequence parallelism?). Switch packing off."
        )
    at = torch.arange(len(sample), device=embeds.device)

    def spread(mask: Tensor) -> Tensor:
        row = torch.zeros(layout.shape[0], embeds.shape[1], dtype=torch.bool, device=embeds.device)
        row[sample, at] = mask[sample, position]
        return row

    answer = None if layout.answer is None else spread(layout.answer)
    return SequenceLayout(text=spread(layout.text), image=spread(layout.image), answer=answer)
