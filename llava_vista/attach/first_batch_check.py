"""The first batch of each kind: do text positions hold rows of the embedding table, and image positions others?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..errors import LayoutError
from ..logging import warn_once
from .decoder_tap import Hook

if TYPE_CHECKING:
    from .observation import Observation

#: Positions that are compared.
SAMPLED = 256
#: Most rows of the table that are compared with them, unless a single token was looked up more often.
ROWS = 1 << 12
#: Largest difference between an embedding and the scaled table row, relative to the largest entry (bfloat16 rounds).
TOLERANCE = 2e-2
#: Passes of one kind that are looked at while they show no image.
PASSES = 64


class FirstBatchCheck:
    """Compare what the decoder receives at text positions with what the model's embedding table returned.

    Batches are of one kind when the same arguments of the model hold something: a modality that appears later is a new
    kind. Of each kind, passes are checked until one has text and image.

    The table's own calls are observed: under ZeRO-3 a look-up of our own would be a collective that other ranks may
    not take part in. Only the rows of the current forward are kept, and only while it is checked.

    Args:
        adapter: for messages.
        inner: the model.
    """

    def __init__(self, adapter: Adapter, inner: nn.Module) -> None:
        self.name = f"adapter {adapter.name} on {type(inner).__name__}"
        self._embedding: nn.Module = inner.get_input_embeddings()  # type: ignore[operator]
        self._rows: list[tuple[Tensor, Tensor]] = []
        self._remover: Any = None
        self._kind: frozenset[str] = frozenset()
        #: how many passes of a kind may still be checked
        self._left: dict[frozenset[str], int] = {}

    def begin(self, arguments: Mapping[str, Any]) -> None:
        """Observe the table, if the call of the model that begins is of a kind to be checked."""
        self._kind = frozenset(_held(arguments))
        self.forget()
        if self._left.setdefault(self._kind, PASSES) and self._remover is None:
            self._remover = self._embedding.register_forward_hook(Hook(self._keep_rows), with_kwargs=True)

    def _keep_rows(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        ids = next(iter((*args, *kwargs.values())), None)
        if isinstance(ids, Tensor):
            self._rows.append((ids.detach().flatten(), output.detach().reshape(-1, output.shape[-1])))

    def forget(self) -> None:
        """Release the rows of the current forward."""
        self._rows = []

    def check(self, observation: Observation) -> None:
        """Check a decoder pass, if its kind is not known yet. Reads the device in that case.

        Raises:
            LayoutError: what was seen is not what the layout says.
        """
        kept, observed = self._rows, self._remover is not None
        self.remove()
        layout, embeds, token_ids = observation.layout, observation.inputs_embeds, observation.token_ids
        if not observed or layout is None or embeds is None or token_ids is None or layout.shape != embeds.shape[:2]:
            return
        if not kept:
            warn_once(
                f"{self.name}: its embedding table {type(self._embedding).__name__} was not called in a forward (is "
                "its weight used directly?), so VISTA cannot check on the first batch that text positions hold "
                "text, and image positions images."
            )
            self._left[self._kind] = 0
            return
        self._left[self._kind] -= 1
        at = layout.text.nonzero()  # (N, 2)
        if not len(at):
            return
        ids, rows = torch.cat([item[0] for item in kept]), torch.cat([item[1] for item in kept])
        at = _sample(at, token_ids[at[:, 0], at[:, 1]])
        wanted = token_ids[at[:, 0], at[:, 1]]
        known = bool(torch.isin(wanted, ids).all())
        few = _rare(ids[torch.isin(ids, wanted)])
        at, useful = at[torch.isin(wanted, few)], torch.isin(ids, few)
        text, wanted = embeds.detach()[at[:, 0], at[:, 1]].float(), token_ids[at[:, 0], at[:, 1]]
        rows = rows[useful].float()
        scale = _common_scale(text, wanted, ids[useful], rows) if known else None
        if scale is None:
            raise LayoutError(
                f"{self.name}: the embeddings at text positions are not the rows of its embedding table (up to one "
                f"scale), compared at {len(at)} positions of the first batch. Either the positions are misread, or "
                "the model changes its text embeddings before the decoder. It needs an adapter of its own "
                "(register_adapter)."
            )
        image = embeds.detach()[layout.image].float()  # (N, d)
        if not len(image):
            return
        table = torch.cat([rows, *_tables(kept, token_ids)])
        fraction = _fraction_of_rows(image[:: max(1, len(image) // SAMPLED)], table * scale)
        if fraction > 0.5:
            raise LayoutError(
                f"{self.name}: {fraction:.0%} of the image positions of the first batch hold rows of the embedding "
                "table, so no image features were put there. Is the image missing from the batch, or are the positions "
                "misread?"
            )
        self._left[self._kind] = 0

    def remove(self) -> None:
        """Stop observing the table."""
        if self._remover is not None:
            self._remover.remove()
            self._remover = None
        self.forget()


def _held(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the arguments that hold something: images, sounds, regions of at least one sample."""
    for name, value in arguments.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in _held({str(key): item for key, item in value.items()}))
        elif isinstance(value, (list, tuple)):
            if any(item is not None and (not isinstance(item, Tensor) or item.numel()) for item in value):
                yield name
        elif isinstance(value, Tensor) and value.numel():
            yield name


def _sample(at: Tensor, ids: Tensor) -> Tensor:
    """Choose from positions (N, 2) with token ids (N,): one of each id, as far as there is room, and some others."""
    order = ids.argsort(stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[1:] = ids[order][1:] != ids[order][:-1]
    each = order[first]
    return torch.cat([at[each[:: max(1, len(each) // SAMPLED)]], at[:: max(1, len(at) // SAMPLED)]])


def _rare(ids: Tensor) -> Tensor:
    """Return the rarest tokens of ids (N,), as many as were looked up no more than `ROWS` times; at least one.

    All look-ups of a token count: each may have noise of its own (NEFTune).
    """
    tokens, counts = ids.unique(return_counts=True)
    order = counts.argsort(stable=True)
    fits = int((counts[order].cumsum(dim=0) <= ROWS).sum())
    rarest: Tensor = tokens[order[: max(1, fits)]]
    return rarest


def _tables(kept: list[tuple[Tensor, Tensor]], token_ids: Tensor) -> list[Tensor]:
    """Return some of the rows that the table gave for any token of the batch, placeholders too.

    Hosts whose images are tokens of a codebook (Emu3) look those up in the same table, apart from the batch's own.
    """
    own = [rows for ids, rows in kept if bool(torch.isin(ids, token_ids).any())]
    return [rows[:: max(1, len(rows) // SAMPLED)].float() for rows in own]


def _common_scale(text: Tensor, wanted: Tensor, ids: Tensor, rows: Tensor) -> float | None:
    """Return the factor between table rows and embeddings; None when there is none for all.

    Args:
        text: (N, d) embeddings. wanted: (N,) their token ids, each among ids. ids (M,), rows (M, d): what the table
            returned. It may have returned a token several times with different noise (NEFTune): any of them will do.
    """
    same = wanted[:, None] == ids[None, :]  # (N, M)
    norms, text_norms = rows.norm(dim=1), text.norm(dim=1)
    units, text_units = _unit(rows, norms), _unit(text, text_norms)
    distance = torch.full(same.shape, torch.inf, device=text.device)  # (N, M)
    for number, own in enumerate(same):  # all pairs at once would be (N, M, d)
        distance[number, own] = (text_units[number] - units[own]).norm(dim=1)
    nearest = distance.argmin(dim=1)
    known = norms[nearest] > 0
    if not bool(known.any()):
        return None
    scale = (text_norms[known] / norms[nearest][known]).median()
    error = (text - scale * rows[nearest]).abs().amax()
    return float(scale) if float(error) <= TOLERANCE * float(text.abs().amax()) else None


def _fraction_of_rows(vectors: Tensor, rows: Tensor) -> float:
    """Return the share of vectors (N, d) that are among the rows (M, d)."""
    # Not by way of a matrix product, which gives equal rows a distance (a large one under TF32).
    distance = torch.cdist(vectors, rows, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    return float((distance <= TOLERANCE * vectors.norm(dim=1).clamp(min=1e-12)).float().mean())


def _unit(vectors: Tensor, norms: Tensor) -> Tensor:
    return vectors / norms.clamp(min=1e-12)[:, None]
