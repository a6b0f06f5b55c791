"""The first batch of a model that only the generic adapter recognises: is the layout what it is taken for?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..errors import LayoutError
from ..layout import SequenceLayout
from .decoder_tap import Hook

#: Text positions that are compared.
SAMPLED = 256
#: Largest difference between an embedding and the scaled table row, relative to the largest entry (bfloat16 rounds).
TOLERANCE = 2e-2


class FirstBatchCheck:
    """Compares what the decoder receives at text positions with what the model's embedding table gave out.

    The table is not read but watched: under ZeRO-3 a look-up of our own would be a collective that other ranks may not
    take part in.

    Args:
        adapter: for messages.
        inner: the model.
    """

    def __init__(self, adapter: Adapter, inner: nn.Module) -> None:
        self.name = f"adapter {adapter.name} on {type(inner).__name__}"
        #: (B, L) original token id at each position of the decoder's sequence; meaningless where there is no text.
        self.token_ids: Tensor | None = None
        self._seen: list[tuple[Tensor, Tensor]] = []
        embedding: nn.Module = inner.get_input_embeddings()  # type: ignore[operator]
        self._remover = embedding.register_forward_hook(Hook(self._see))

    def _see(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if args and isinstance(args[0], Tensor) and self.token_ids is None:
            self._seen.append((args[0].detach().flatten(), output.detach().flatten(0, -2)))

    def __call__(self, embeds: Tensor, layout: SequenceLayout) -> bool:
        """Check a batch. True when it was one that could tell (with text and image), and the check is over.

        Raises:
            LayoutError: what was seen is not what the generic adapter takes it for.
        """
        token_ids, self.token_ids = self.token_ids, None
        seen, self._seen = self._seen, []
        if token_ids is None or not seen or not bool(layout.image.any()) or not bool(layout.text.any()):
            return False
        ids, rows = torch.cat([item[0] for item in seen]), torch.cat([item[1] for item in seen]).float()
        at = layout.text.nonzero()  # (N, 2)
        at = at[:: max(1, len(at) // SAMPLED)]
        text, wanted = embeds.detach()[at[:, 0], at[:, 1]].float(), token_ids[at[:, 0], at[:, 1]]
        scale = _common_scale(text, wanted, ids, rows)
        if scale is None:
            raise LayoutError(
                f"{self.name}: the embeddings at text positions are not the rows of its embedding table (up to one "
                f"scale), compared at {len(at)} positions of the first batch. Either the positions are misread, or "
                "the model changes its text embeddings before the decoder. It needs an adapter of its own "
                "(register_adapter)."
            )
        image = embeds.detach()[layout.image].float()  # (N, d)
        fraction = _fraction_of_rows(image[:: max(1, len(image) // SAMPLED)], rows * scale)
        if fraction > 0.5:
            raise LayoutError(
                f"{self.name}: {fraction:.0%} of the image positions of the first batch hold rows of the embedding "
                "table, so no image features were put there. Is the image missing from the batch, or are the positions "
                "misread?"
            )
        self.remove()
        return True

    def remove(self) -> None:
        """Stop watching the table."""
        self._remover.remove()
        self._seen = []


def _common_scale(text: Tensor, wanted: Tensor, ids: Tensor, rows: Tensor) -> float | None:
    """The factor between table rows and embeddings, if there is one for all.

    Args:
        text: (N, d) embeddings. wanted: (N,) their token ids. ids (M,), rows (M, d): what the table gave out. A token
            may have been given out several times with different noise (NEFTune): any of them will do.
    """
    same = wanted[:, None] == ids[None, :]  # (N, M)
    if not bool(same.any(dim=1).all()):
        return None
    norms = rows.norm(dim=1)
    text_norms = text.norm(dim=1)
    distance = torch.cdist(_unit(text, text_norms), _unit(rows, norms)).masked_fill(~same, torch.inf)  # (N, M)
    nearest = distance.argmin(dim=1)
    known = norms[nearest] > 0
    if not bool(known.any()):
        return None
    scale = (text_norms[known] / norms[nearest][known]).median()
    error = (text - scale * rows[nearest]).abs().amax()
    return float(scale) if float(error) <= TOLERANCE * float(text.abs().amax()) else None


def _fraction_of_rows(vectors: Tensor, rows: Tensor) -> float:
    """How many of the vectors (N, d) are among the rows (M, d)."""
    distance = torch.cdist(vectors, rows).amin(dim=1)
    return float((distance <= TOLERANCE * vectors.norm(dim=1).clamp(min=1e-12)).float().mean())


def _unit(vectors: Tensor, norms: Tensor) -> Tensor:
    return vectors / norms.clamp(min=1e-12)[:, None]
