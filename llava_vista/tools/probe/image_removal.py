"""Three meanings of "no image". The text keeps its positions in all of them.

masked    Image positions are masked out of attention: the language model on the text alone, at the same position ids.
          The model may never have been trained so.
blank     A uniform grey image of the same size: an unusual input, which still says "an image".
shuffled  Another sample's image: an ordinary input that says something false. A false image costs more than none, so
          values are larger than with the others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ProbeError


def mask_image(mask: Any, image: Tensor) -> Any:
    """Return a copy of the decoder's attention mask in which the image positions are masked out.

    Args:
        mask: None, (B, L) of ones and zeros, (B, 1 or heads, L, L) boolean or additive, or a dict of such.
        image: (B, L) bool.

    Raises:
        ProbeError: a mask of another form.
    """
    if isinstance(mask, dict):
        return {name: mask_image(value, image) for name, value in mask.items()}
    if mask is None:
        return ~image
    if isinstance(mask, Tensor):
        image = image.to(mask.device)
        if mask.shape == image.shape and not mask.dtype.is_floating_point:
            return mask.masked_fill(image, 0)
        if mask.ndim == 4 and mask.shape[-1] == image.shape[1]:
            closed = torch.finfo(mask.dtype).min if mask.dtype.is_floating_point else 0
            return mask.masked_fill(image[:, None, None, :], closed)
    found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    raise ProbeError(
        f"the decoder got an attention mask of unknown form ({found} for {tuple(image.shape)} positions), so the image "
        "cannot be masked. Use --no-image blank or shuffled."
    )


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
