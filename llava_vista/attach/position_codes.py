"""Position codes: text tokens numbered through the labels' place of a merge method, and read back."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ..errors import LayoutError
from ..layout import SequenceLayout


def position_codes(labels: Tensor) -> Tensor:
    """Codes to send through the merge method in the labels' place: each token's flat index, unique over the batch.

    Args:
        labels: (B, T) integer.

    Returns:
        (B, T), the dtype and device of ``labels``.

    Raises:
        LayoutError: ``labels`` is not an integer matrix that can hold the codes.
    """
    if labels.ndim != 2 or labels.dtype.is_floating_point or labels.dtype in (torch.bool, torch.complex64):
        raise LayoutError(f"labels must be an integer (B, T) tensor, got {labels.dtype} {tuple(labels.shape)}.")
    if labels.numel() > torch.iinfo(labels.dtype).max:
        raise LayoutError(f"labels of dtype {labels.dtype} cannot number {labels.numel()} tokens.")
    return torch.arange(labels.numel(), device=labels.device, dtype=labels.dtype).view_as(labels)


def decode(codes: Tensor, merged_mask: Tensor, labels: Tensor, mask: Tensor) -> tuple[SequenceLayout, Tensor]:
    """Read the codes that came back: the layout, and the labels as the host would have returned them.

    Args:
        codes: (B, L) what the merge method returned as labels.
        merged_mask: (B, L) the attention mask it returned.
        labels: (B, T) the host's own labels.
        mask: (B, T) the attention mask of ``input_ids``.

    Returns:
        The layout, and labels (B, L). The host's own negative value stays at places without a code.

    Raises:
        LayoutError: the shapes do not fit each other.
    """
    if codes.ndim != 2 or merged_mask.shape != codes.shape:
        raise LayoutError(
            f"the merge method returned labels {tuple(codes.shape)} and an attention mask {tuple(merged_mask.shape)}; "
            "both were expected to be (B, L) of the merged sequence."
        )
    has_code = codes >= 0
    # (B, L) index of the token that stands at each position; 0 where there is none, masked out below.
    token = codes.clamp(min=0).long()
    merged_labels = torch.where(has_code, labels.reshape(-1)[token], codes)
    # Some hosts leave codes on padding: the mask of the token itself decides.
    text = has_code & mask.reshape(-1).bool()[token]
    image = ~has_code & merged_mask.bool()
    return SequenceLayout(text=text, image=image, answer=text & (merged_labels >= 0)), merged_labels


def compose(layout: SequenceLayout, codes: Tensor, before: SequenceLayout) -> SequenceLayout:
    """The layout after a second merge, whose tokens were the positions of the first: image rows among them stay image.

    Args:
        layout: (B, L) of the second merge. codes: (B, L) it returned. before: (B, T) of the first.
    """
    token = codes.clamp(min=0).long()
    was_text, was_image = before.text.reshape(-1)[token], before.image.reshape(-1)[token]
    text = layout.text & was_text
    return SequenceLayout(
        text=text,
        image=layout.image | (layout.text & was_image),
        answer=None if layout.answer is None else layout.answer & text,
    )


def check_order(codes: Tensor) -> None:
    """Check that every row's codes are strictly increasing: no token twice, none moved. Reads the tensor on the host.

    Raises:
        LayoutError: the merge method does more to the labels than this package understands.
    """
    for row, values in enumerate(codes.tolist()):
        text = [value for value in values if value >= 0]
        if any(later <= earlier for earlier, later in pairwise(text)):
            raise LayoutError(
                f"the merge method returned the text tokens of row {row} out of order or twice ({text[:12]}...), so "
                "their positions are unclear. This host needs an adapter of its own (register_adapter)."
            )
