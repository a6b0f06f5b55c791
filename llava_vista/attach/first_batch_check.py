"""The first batch of a model that only the generic adapter recognises: is the layout what it is taken for?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..errors import LayoutError
from .decoder_tap import Hook

if TYPE_CHECKING:
    from .observation import Observation

#: Text positions that are compared.
SAMPLED = 256
#: Largest difference between an embedding and the scaled table row, relative to the largest entry (bfloat16 rounds).
TOLERANCE = 2e-2


class FirstBatchCheck:
    """Compare what the decoder receives at text positions with what the model's embedding table returned.

    The table's own calls are observed: under ZeRO-3 a look-up of our own would be a collective that other ranks may
    not take part in. Only the rows of the current forward are kept.

    Args:
        adapter: for messages.
        inner: the model.
    """

    def __init__(self, adapter: Adapter, inner: nn.Module) -> None:
        self.name = f"adapter {adapter.name} on {type(inner).__name__}"
        self._rows: list[tuple[Tensor, Tensor]] = []
        embedding: nn.Module = inner.get_input_embeddings()  # type: ignore[operator]
        self._remover = embedding.register_forward_hook(Hook(self._keep_rows))

    def _keep_rows(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if args and isinstance(args[0], Tensor) and torch.is_grad_enabled():
            self._rows.append((args[0].detach().flatten(), output.detach().flatten(0, -2)))

    def forget(self) -> None:
        """Release the rows of the current forward."""
        self._rows = []

    def passes(self, observation: Observation) -> bool:
        """Check a decoder pass. Return True when it had text and image, so that the check is over. Reads the device.

        Raises:
            LayoutError: what was seen is not what the generic adapter takes it for.
        """
        kept, layout, embeds = self._rows, observation.layout, observation.inputs_embeds
        self.forget()
        if layout is None or embeds is None or layout.shape != embeds.shape[:2] or not kept:
            return False
        token_ids = observation.token_ids
        if token_ids is None or not bool(layout.image.any()) or not bool(layout.text.any()):
            return False
        ids, rows = torch.cat([item[0] for item in kept]), torch.cat([item[1] for item in kept]).float()
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
        """Stop observing the table."""
        self._remover.remove()
        self.forget()


def _common_scale(text: Tensor, wanted: Tensor, ids: Tensor, rows: Tensor) -> float | None:
    """Return the factor between table rows and embeddings; None when there is none for all.

    Args:
        text: (N, d) embeddings. wanted: (N,) their token ids. ids (M,), rows (M, d): what the table returned. It may
            have returned a token several times with different noise (NEFTune): any of them will do.
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
    """Return the share of vectors (N, d) that are among the rows (M, d)."""
    distance = torch.cdist(vectors, rows).amin(dim=1)
    return float((distance <= TOLERANCE * vectors.norm(dim=1).clamp(min=1e-12)).float().mean())


def _unit(vectors: Tensor, norms: Tensor) -> Tensor:
    return vectors / norms.clamp(min=1e-12)[:, None]
