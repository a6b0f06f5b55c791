"""``--vista_probe_steps``: while it trains, how much does the image add to the supervised tokens?"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..attach.handle import Handle, loss_in
from ..attach.meter import gather_ranks
from ..attach.observation import Observation
from ..attach.patching import Replacement
from ..errors import ProbeError
from ..logging import warn_once
from ..objective.text_sums import wide
from .accumulation import LossScale, argument, divided_means
from .image_information import Information, logit_maps, measure, output_head, slope_sums

_SUMS = ("nats", "tokens", "xy", "xx", "compared", "equal", "off")


class TrainingProbe:
    """Measures the first forward pass of every N-th optimizer step, inside that pass.

    There autocast, gathered parameters and a compiled caller are the training's own. A step that is not measured costs
    nothing, and nothing is read from the device but in a measured step and beside a log record.

    Nothing is logged before the logits that the probe makes have given the host's own cross-entropy: a host may change
    them on the way, and where its configuration does not say how, one warning says that they cannot be measured.
    """

    def __init__(self, trainer: Any, handle: Handle, scale: LossScale, every: int) -> None:
        self._trainer, self._observer, self._scale, self._every = trainer, handle.observer, scale, every
        self._device = handle.device
        self._is_armed = False
        self._step: int | None = None
        #: the random states before the pass, and whether one changes them: whether it has dropout
        self._before: list[Tensor] = []
        self._has_dropout: bool | None = None
        self._found: Information | None = None
        self._sums: Tensor | None = None
        self._head: nn.Module | None = None
        try:
            self._head = output_head(handle.inner)
        except ProbeError as error:
            warn_once(f"vista_information cannot be measured: {error}")
        from torch import _dynamo  # slow to import

        # In a compiled model the measurement is a break of the graph, not a part of it.
        self._called, self._returned = map(_dynamo.disable, (self._enter, self._leave))
        self._remove_listener = handle.observer.add_listener(self)
        self._replacement = Replacement(trainer, "compute_loss", self._around(trainer.compute_loss))

    def undo(self) -> None:
        """Remove everything from the trainer and the model."""
        self._replacement.undo()
        self._remove_listener()
        self._found, self._before = None, []

    def _around(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            step = self._trainer.state.global_step
            if not torch.is_grad_enabled() or self._head is None or step % self._every or step == self._step:
                return original(*args, **kwargs)
            self._is_armed, self._step = True, step
            try:
                result = original(*args, **kwargs)
            finally:
                self._is_armed, self._before = False, []
            found, self._found = self._found, None
            if found is not None:
                num_items = argument(signature, args, kwargs, "num_items_in_batch", 3)
                self._add(found, loss_in(result).detach().float().mean(), num_items)
            return result

        return compute_loss

    def decoder_called(self, observation: Observation) -> None:
        self._called()

    def decoder_returned(self, observation: Observation) -> None:
        self._returned(observation, torch.is_grad_enabled())

    def _random_states(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else states

    def _enter(self) -> None:
        if self._is_armed:
            self._before = self._random_states()

    def _leave(self, observation: Observation, has_gradient: bool) -> None:
        if not self._is_armed or not has_gradient or self._head is None:
            return
        self._is_armed = False  # later passes of this step are not measured
        if self._has_dropout is None:
            moved = self._before and not all(map(torch.equal, self._before, self._random_states()))
            # a collective, once, in a pass that every rank measures
            self._has_dropout = bool(gather_ranks(torch.tensor([float(bool(moved))], device=self._device)).any())
        found = measure(self._observer, self._head, observation, again=self._has_dropout)
        if isinstance(found, str):
            warn_once(f"vista_information leaves out batches that it cannot measure: {found}.")
        elif found is not None:
            self._found = found

    def _add(self, found: Information, loss: Tensor, num_items: Any) -> None:
        mean, world = found.cross_entropy, self._trainer.args.world_size  # (K,)
        loss = loss.to(mean.device)
        forms = torch.stack([mean, *divided_means(mean, found.supervised, self._scale.window, num_items, world)])
        off = (loss - forms).abs()  # (forms, K)
        equal = (off <= found.tolerance * forms.abs()).any(dim=0)
        ones, samples = torch.ones_like(mean), int(found.sample.max()) + 1 if len(found.sample) else 0
        slopes = [slope_sums(nats, found.sample, found.number, samples) for nats in found.nats]
        xy, xx = (torch.stack([part[which].sum() for part in slopes]) for which in (0, 1))
        values = [wide(found.nats).sum(dim=1), ones * len(found.sample), xy, xx, ones, equal, off.amin(dim=0)]
        sums = torch.stack([wide(value) for value in values], dim=1)  # (K, 7)
        self._sums = sums if self._sums is None else self._sums + sums

    def read(self) -> dict[str, float]:
        """Return the averages over all ranks since the last read, and reset. A collective; reads the device.

        Returns:
            vista_information (nats per supervised token), vista_information_slope (per position of the token among the
            supervised ones of its sample), vista_information_tokens (their number). Nothing where no step was measured.
        """
        if self._head is None:
            return {}
        ways = len(logit_maps(self._observer.inner))
        sums = wide(torch.zeros((ways, len(_SUMS)), device=self._device)) if self._sums is None else self._sums
        self._sums = None
        gathered = gather_ranks(sums.flatten()).sum(dim=0).view(ways, -1).tolist()
        every = [dict(zip(_SUMS, row, strict=True)) for row in gathered]
        # Of what the host may do to its logits, what it does gives its own loss in every batch, and best.
        total = min(every, key=lambda one: (-one["equal"], one["off"]))
        if total["equal"] < total["compared"]:
            self._head = None  # on every rank: the sums are the same
            warn_once(
                f"vista_information cannot be measured: the cross-entropy of {type(self._observer.inner).__name__}'s "
                "output embeddings on the decoder's output is not the loss that the host has (logits changed "
                "in another way than its configuration says, label smoothing, another term in the loss?) in "
                f"{int(total['compared'] - total['equal'])} of {int(total['compared'])} measured batches. Leave out "
                "--vista_probe_steps."
            )
            return {}
        count = total["tokens"]
        record = {"vista_information": total["nats"] / count, "vista_information_tokens": int(count)} if count else {}
        if total["xx"]:
            record["vista_information_slope"] = total["xy"] / total["xx"]
        return record
