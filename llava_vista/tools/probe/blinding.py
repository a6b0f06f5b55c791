"""Three ways to say "no image", none of which removes it: the text stays at its positions.

masked    image positions are masked out of attention. What is left is the language model on the text alone, at the
          same position ids. The model may never have been trained so.
blank     a uniform grey picture of the same size: a real input, though an unusual one, and it still says "an image".
shuffled  another sample's image: an ordinary input that says something false. Being misled costs more than not
          knowing, so numbers are larger than with the others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...errors import ProbeError

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY = (127, 127, 127)


def without_image(mask: Any, image: Tensor) -> Any:
    """The decoder's attention mask with the image's positions masked out.

    Args:
        mask: what the decoder was given: None, (B, L) of ones and zeros, (B, 1 or heads, L, L) boolean or additive, or
            a dict of such.
        image: (B, L) bool.

    Returns:
        a new mask of the same form.

    Raises:
        ProbeError: a mask of another form.
    """
    if isinstance(mask, dict):
        return {name: without_image(value, image) for name, value in mask.items()}
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
        f"the decoder got an attention mask of a form that is not understood ({found} for {tuple(image.shape)} "
        "positions), so the image cannot be masked. Use --no-image blank or shuffled."
    )


def blank(image: Image) -> Image:
    """A grey picture of the same size."""
    from PIL import Image as images

    return images.new("RGB", image.size, _GREY)


def others(images: Sequence[Path], seed: int) -> dict[Path, Path]:
    """For each distinct image another one, each used once: a random cycle through all of them.

    Raises:
        ProbeError: fewer than two distinct images.
    """
    distinct = sorted(set(images))
    if len(distinct) < 2:
        raise ProbeError("--no-image shuffled needs at least two different images.")
    random.Random(seed).shuffle(distinct)
    return dict(zip(distinct, [*distinct[1:], distinct[0]], strict=True))
