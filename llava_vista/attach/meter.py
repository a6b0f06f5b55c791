"""Running sums of terms and cross-entropy, kept on the device until they are read: no host sync in between."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NonFiniteLossError
from ..logging import warn_once
from ..objective import AlignmentTerms

_SUMS = (
    "loss",  # sum over aligned samples
    "similarity",  # sum over aligned samples
    "aligned",  # aligned samples
    "margin",  # sum over compared samples, as the next two
    "own_first",
    "chance",
    "compared",  # samples whose text was compared with another
    "ce",  # sum over micro-steps whose cross-entropy is finite
    "ce_finite",  # their number
    "steps",  # micro-steps
    "ce_zero",  # micro-steps with a cross-entropy of exactly 0
    "unsupervised",  # micro-steps whose batch has no supervised label
    "vista_not_finite",  # micro-steps whose VISTA loss is NaN or infinite
)
# Behind the sums: first optimizer step, plus 1, at which the VISTA loss or the cross-entropy was not finite; 0 = none.
_FIRST_VISTA, _FIRST_CE = -2, -1
_WIDTH = len(_SUMS) + 2


def gather_ranks(vector: Tensor) -> Tensor:
    """Stack ``vector`` (F,) of all ranks into (R, F); (1, F) without a process group. Collective."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return vector[None]
    parts = [torch.empty_like(vector) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, vector)
    return torch.stack(parts)


def _total(rows: list[list[float]]) -> dict[str, float]:
    """Sums over ranks, by name."""
    return dict(zip(_SUMS, (sum(column) for column in zip(*rows, strict=True)), strict=False))


class Meter:
    """Sums over the micro-steps since the last `read`."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def _add(self, bad: Tensor, first: int, step: int, **values: Tensor | float) -> None:
        """Add ``values`` by name, and note at ``first`` the step where ``bad`` (a scalar, 0 or 1) is 1 first."""
        if self._sums is None:
            self._sums = torch.zeros(_WIDTH, device=bad.device)
        sums = self._sums
        for name, value in values.items():
            sums[_SUMS.index(name)] += value.to(sums.device) if isinstance(value, Tensor) else value
        bad = bad.to(sums.device)
        sums[first] = torch.where((sums[first] == 0) & (bad > 0), float(step + 1), sums[first])

    def add_terms(self, terms: AlignmentTerms, step: int) -> None:
        """Add one batch's terms; ``step`` is the optimizer step, to name the first that went wrong."""
        finite, bad = terms.finite > 0, 1 - terms.finite
        # A batch that is not finite takes no part in the averages.
        aligned, compared = terms.aligned * terms.finite, terms.own.compared * terms.finite
        loss, similarity, margin, own_first, chance = (
            torch.where(finite, value.detach(), torch.zeros_like(aligned))
            for value in (terms.loss, terms.similarity, *terms.own[:3])
        )
        self._add(
            bad,
            _FIRST_VISTA,
            step,
            loss=loss * aligned,
            similarity=similarity * aligned,
            aligned=aligned,
            margin=margin * compared,
            own_first=own_first * compared,
            chance=chance * compared,
            compared=compared,
            vista_not_finite=bad,
        )

    def add_cross_entropy(self, loss: Tensor, labels: Tensor | None, step: int) -> None:
        """Add one micro-step's cross-entropy, and whether its batch had anything to supervise."""
        loss = loss.detach().float().mean()
        unsupervised = 0.0 if labels is None else 1 - (labels >= 0).any().float().to(loss.device)
        finite = torch.isfinite(loss)
        self._add(
            1 - finite.float(),
            _FIRST_CE,
            step,
            # A batch without labels has a cross-entropy of NaN; transformers leaves it out of its own average, too.
            ce=torch.where(finite, loss, torch.zeros_like(loss)),
            ce_finite=finite.float(),
            steps=1.0,
            ce_zero=(loss == 0).float(),
            unsupervised=unsupervised,
        )

    def check(self, device: torch.device, *, across_ranks: bool) -> None:
        """Raise if any VISTA loss since the last `read` was not finite; the sums stay. Reads the device.

        Raises:
            NonFiniteLossError: naming the step and the ranks, on every rank.
        """
        self._stop_if_bad(self._collect(device, across_ranks))

    def _collect(self, device: torch.device, across_ranks: bool) -> list[list[float]]:
        vector = torch.zeros(_WIDTH, device=device) if self._sums is None else self._sums
        rows = gather_ranks(vector) if across_ranks else vector[None]
        return rows.tolist()  # the one host sync

    def read(self, device: torch.device, *, across_ranks: bool, stop_on_nonfinite: bool) -> dict[str, float]:
        """Return the averages since the last read, and reset. Reads the device.

        Args:
            device: where to build the vector when nothing was added on this rank.
            across_ranks: gather over the process group (a collective: every rank must call).
            stop_on_nonfinite: raise when a VISTA loss was not finite, on every rank.

        Returns:
            vista_loss, vista_similarity (means over aligned samples), vista_aligned_samples (their number, over all
            ranks), vista_margin, vista_own_first, vista_own_first_chance (means over compared samples), ce_loss (mean
            over micro-steps and ranks). A key without a value is left out: where nothing was aligned or compared, and
            ce_loss where no cross-entropy was finite. vista_nonfinite_batches when there were any.

        Raises:
            NonFiniteLossError: naming the step and the ranks.
        """
        rows = self._collect(device, across_ranks)
        self._sums = None
        if stop_on_nonfinite:
            self._stop_if_bad(rows)
        total = _total(rows)
        _warn_about_labels(total)
        record: dict[str, float] = {"vista_aligned_samples": int(total["aligned"])}
        if total["aligned"]:
            record["vista_loss"] = total["loss"] / total["aligned"]
            record["vista_similarity"] = total["similarity"] / total["aligned"]
        if total["compared"]:
            record["vista_margin"] = total["margin"] / total["compared"]
            record["vista_own_first"] = total["own_first"] / total["compared"]
            record["vista_own_first_chance"] = total["chance"] / total["compared"]
        if total["ce_finite"]:
            record["ce_loss"] = total["ce"] / total["ce_finite"]
        if total["vista_not_finite"]:
            record["vista_nonfinite_batches"] = int(total["vista_not_finite"])
        return record

    @staticmethod
    def _stop_if_bad(rows: list[list[float]]) -> None:
        first = {rank: int(row[_FIRST_VISTA]) - 1 for rank, row in enumerate(rows) if row[_FIRST_VISTA]}
        if not first:
            return
        total, step = _total(rows), min(first.values())
        ranks = ", ".join(str(rank) for rank, value in first.items() if value == step)
        also = (
            " The cross-entropy was not finite then either, so the cause is probably the training itself (learning "
            "rate, fp16, data), not VISTA."
            if any(row[_FIRST_CE] and row[_FIRST_CE] - 1 <= step for row in rows)
            else " The cross-entropy was still finite then."
        )
        raise NonFiniteLossError(
            f"the VISTA loss became NaN or infinite at step {step} on rank {ranks} "
            f"({int(total['vista_not_finite'])} micro-steps since the last log).{also} Training stops before a "
            "checkpoint is written; go back to the last one. To drop such batches' VISTA term instead: "
            "--vista_on_nonfinite skip."
        )


def _warn_about_labels(total: dict[str, float]) -> None:
    steps = int(total["steps"])
    if total["ce_zero"]:
        warn_once(
            f"the cross-entropy was exactly 0 in {int(total['ce_zero'])} of {steps} micro-steps. Usually every label "
            "of the batch was masked (look for 'tokenization mismatch' in the log): the conversation template does not "
            "fit the tokenizer."
        )
    if total["unsupervised"]:
        warn_once(
            f"{int(total['unsupervised'])} of {steps} micro-steps had a batch without any supervised label. Usually "
            "the conversation template does not fit the tokenizer ('tokenization mismatch'), or model_max_length cuts "
            "the answers off."
        )
