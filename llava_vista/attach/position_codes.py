"""Position codes: text tokens numbered through the labels' place of a merge method, and read back."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import LayoutError
from ..layout import SequenceLayout
from .placeholders import among


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


class Tokens(NamedTuple):
    """What went into a merge, flat over the batch: T tokens a row, N in all.

    ids (N,). attended (N,): no padding. image (N,), other (N,): placeholders of images and of other modalities.
    """

    ids: Tensor
    attended: Tensor
    image: Tensor
    other: Tensor
    length: int

    @classmethod
    def read(cls, ids: Tensor, mask: Tensor, image_ids: tuple[int, ...], other_ids: tuple[int, ...]) -> Tokens:
        """Sort the tokens (B, T). A negative id is no token of the vocabulary, so it is a placeholder of some kind."""
        image = among(ids, image_ids)
        other = among(ids, other_ids) | ((ids < 0) & ~image)
        return cls(ids.flatten(), mask.flatten().bool(), image.flatten(), other.flatten(), ids.shape[1])

    @property
    def placeholder(self) -> Tensor:
        return self.image | self.other

    def mixed(self) -> Tensor:
        """Whether placeholders of images and of another modality are neighbours, so that their rows cannot be told."""
        next_image, next_other = self.image[1:] & self.attended[1:], self.other[1:] & self.attended[1:]
        return ((self.image[:-1] & next_other) | (self.other[:-1] & next_image)).any()


def decode(
    codes: Tensor, merged_mask: Tensor, labels: Tensor, tokens: Tokens, placed: Tensor | None = None
) -> tuple[SequenceLayout, Tensor, Tensor]:
    """Read the codes that came back: the layout, the labels as the host would have returned them, and the tokens.

    An attended position without a code is a row of the placeholders that are missing between its neighbours' tokens: an
    image position, unless they are placeholders of another modality. A code that came back for a placeholder is a row
    in its place. Rows where no token is missing (a learned prefix or suffix) are neither, once placeholders were seen.

    Args:
        codes: (B, L) what the merge method returned as labels.
        merged_mask: (B, L) the attention mask it returned.
        labels: (B, T) the host's own labels.
        tokens: of ``input_ids``.
        placed: () bool, this host is known to put images in the place of placeholders; None is unknown.

    Returns:
        The layout; labels (B, L), where the host's own negative value stays at places without a code; and the index of
        the token at each position (B, L), meaningless where there is none.

    Raises:
        LayoutError: the shapes do not fit each other.
    """
    if codes.ndim != 2 or merged_mask.shape != codes.shape:
        raise LayoutError(
            f"the merge method returned labels {tuple(codes.shape)} and an attention mask {tuple(merged_mask.shape)}; "
            "both were expected to be (B, L) of the merged sequence."
        )
    has_code, merged_mask = codes >= 0, merged_mask.bool()
    token = codes.clamp(min=0).long()
    merged_labels = torch.where(has_code, labels.reshape(-1)[token], codes)
    token = _after_placeholder(token, has_code, merged_mask, tokens)
    # Some hosts leave codes on padding: the mask of the token itself decides.
    coded = has_code & tokens.attended[token]
    text = coded & ~tokens.placeholder[token]
    image = (coded & tokens.image[token]) | (~has_code & merged_mask & _rows_of_images(token, has_code, tokens, placed))
    return SequenceLayout(text=text, image=image, answer=text & (merged_labels >= 0)), merged_labels, token


def _present(token: Tensor, has_code: Tensor, count: int) -> Tensor:
    """Return which of ``count`` tokens came back, as (count + 1,) bool."""
    present = torch.zeros(count + 1, dtype=torch.bool, device=token.device)
    return present.index_fill_(0, torch.where(has_code, token, count).flatten(), True)


def _after_placeholder(token: Tensor, has_code: Tensor, mask: Tensor, tokens: Tokens) -> Tensor:
    """Correct the code of an end token that the host labels with the label of the placeholder before it.

    LLaVA's first merge method does so with ``im_end``. Rows of the image stand before it, and its own token is missing.
    """
    count = len(tokens.ids)
    present = _present(token, has_code, count)
    after = token + 1
    same_row = (after % tokens.length) != 0
    missing = same_row & ~present[after] & tokens.attended[after.clamp(max=count - 1)]
    expanded = torch.nn.functional.pad(~has_code & mask, (1, 0))[:, :-1]  # the position before is an inserted row
    return torch.where(has_code & tokens.placeholder[token] & missing & expanded, after, token)


def _rows_of_images(token: Tensor, has_code: Tensor, tokens: Tokens, placed: Tensor | None) -> Tensor:
    """Return at which positions without a code no placeholder of another modality is missing, as (B, L) bool.

    Where images are ``placed``, something else than another modality must be missing, or stand next to the position.
    """
    count, length = len(tokens.ids), tokens.length
    present = _present(token, has_code, count)
    before = torch.where(has_code, token, -1).cummax(dim=1).values
    behind = torch.where(has_code, token, count).flip(1).cummin(dim=1).values.flip(1)
    row = torch.arange(len(token), device=token.device)[:, None].clamp(max=count // length - 1)
    row = torch.where(before >= 0, before.clamp(min=0) // length, torch.where(behind < count, behind // length, row))
    start = torch.where(before >= 0, before + 1, row * length)
    stop = torch.where(behind < count, behind, (row + 1) * length)
    gap = (start, torch.maximum(stop, start))
    # A text token that is missing was cut off by the maximum length: so was all behind it.
    cut = torch.nn.functional.pad(tokens.attended & ~tokens.placeholder & ~present[:count], (0, 1), value=True)
    number = torch.where(cut, torch.arange(count + 1, device=token.device), count)
    next_cut = number.flip(0).cummin(dim=0).values.flip(0)
    stop = torch.maximum(torch.minimum(stop, next_cut[start]), start)
    missing = tokens.attended & ~present[:count]
    others, images = (
        torch.nn.functional.pad(which.cumsum(0), (1, 0)) for which in (missing & tokens.other, missing & ~tokens.other)
    )
    found = others[stop] == others[start]
    if placed is None:
        return found
    beside = torch.nn.functional.pad(tokens.image, (1, 1))  # of the token before and of the one behind
    return found & (~placed | (images[gap[1]] > images[gap[0]]) | beside[before + 1] | beside[behind + 1])


def compose(layout: SequenceLayout, token: Tensor, before: SequenceLayout) -> SequenceLayout:
    """The layout after a second merge, whose tokens were the positions of the first: image rows among them stay image.

    Args:
        layout: (B, L) of the second merge. token: (B, L) from `decode`. before: (B, T) of the first.
    """
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


def check_mask(codes: Tensor, merged_mask: Tensor, layout: SequenceLayout, tokens: Tokens) -> None:
    """Check that the mask attends to text, and to what was put in the place of placeholders. Reads the device.

    Raises:
        LayoutError: it is no attention mask.
    """
    has_code, token = codes >= 0, codes.clamp(min=0).long()
    before = has_code.cumsum(dim=1)
    between = ~has_code & (before > 0) & (before < before[:, -1:])
    text = has_code & (tokens.attended & ~tokens.placeholder)[token] & ~merged_mask.bool()
    skipped = (between & ~merged_mask.bool()).any() & (tokens.image & tokens.attended).any() & ~layout.image.any()
    if bool(text.any() | skipped):
        raise LayoutError(
            "the returned value that looks like the attention mask is 0 at text tokens, or at all rows between them: "
            "it means something else. A data sheet (register_adapter) names the values: merge_returns."
        )


def unknown_kinds(codes: Tensor, mask: Tensor, tokens: Tokens) -> set[int]:
    """Return the ids of tokens in whose place rows were inserted, though they are no known placeholders. Reads tensors.

    They are taken for images as long as there is one such kind. Where the batch has placeholders of images, rows before
    a token that came back are in no token's place.
    """
    kinds: set[int] = set()
    placed = bool((tokens.image & tokens.attended).any())
    here = set(codes.flatten().tolist()) if placed else set()
    ids, text = tokens.ids.tolist(), (tokens.attended & ~tokens.placeholder).tolist()
    for row, (values, keep) in enumerate(zip(codes.tolist(), mask.bool().tolist(), strict=True)):
        behind, end = row * tokens.length, (row + 1) * tokens.length
        for value, attended in zip(values, keep, strict=True):
            if value >= 0:
                behind, end = value + 1, (value // tokens.length + 1) * tokens.length
            elif attended and behind < end and text[behind] and behind not in here:
                kinds.add(ids[behind])
    return kinds
