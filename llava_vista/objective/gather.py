"""The samples of all ranks as one batch, for estimators to which the other samples are negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LayoutError


class RankJoin:
    """Joins (B, F) tensors of all ranks into (R * C, F), where C is the largest batch.

    It is agreed on in the first call; in every call, with a host sync, where a rank packs samples into rows.

    Every rank calls it once per forward, with or without images, so the collectives always match. Only this rank's own
    rows carry a gradient. That is enough: each rank computes the value of the whole joined batch, so the gradient to
    its own rows is complete, and the backward, in which a rank without images may not take part, needs no collective.
    """

    def __init__(self) -> None:
        self._capacity: int | None = None
        self._varies = False

    @staticmethod
    def ranks() -> int:
        """How many ranks there are; 1 without a process group."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 1
        return torch.distributed.get_world_size()

    def __call__(self, rows: Tensor, *, packed: bool = False) -> tuple[Tensor, slice]:
        """The joined rows, zero where a rank had fewer, and where this rank's own stand.

        Args:
            rows: (B, F) float32.
            packed: the samples shared rows, so their number varies.

        Raises:
            LayoutError: the batch is larger than any rank's was at first.
        """
        batch = len(rows)
        if self._capacity is None or self._varies:
            largest = torch.tensor([batch, packed], device=rows.device)
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
            self._capacity, varies = largest.tolist()
            self._varies = self._varies or bool(varies)
        if batch > self._capacity:
            raise LayoutError(
                f"this rank's batch has {batch} samples, but the largest of the first step had {self._capacity}; "
                "joining the samples of all ranks (--vista_method infonce) needs batches that do not grow, or "
                "packed rows from the first step on."
            )
        mine = rows.detach().new_zeros((self._capacity, rows.shape[1]))
        mine[:batch] = rows.detach()
        parts = [torch.empty_like(mine) for _ in range(self.ranks())]
        torch.distributed.all_gather(parts, mine)
        rank = torch.distributed.get_rank()
        own = slice(rank * self._capacity, rank * self._capacity + batch)
        joined = torch.cat(parts)
        return torch.cat([joined[: own.start], rows, joined[own.stop :]]), own
