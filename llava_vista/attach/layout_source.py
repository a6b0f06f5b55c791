"""The layout of what a decoder is about to receive, captured on the way there."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ..adapters import MERGE_ARGUMENTS, Adapter
from ..errors import LayoutError
from .decoder_tap import Hook
from .interception import Interception
from .merge import Merged, Merger
from .packing import LENGTHS, NUMBERS, SIGNALS, Packing, attended, in_one_row
from .placeholders import among, from_placeholders

if TYPE_CHECKING:
    from .observation import Observation


class Inputs(NamedTuple):
    """What the model was called with: ``input_ids`` (B, L), and all that it got by name."""

    ids: Tensor
    arguments: Mapping[str, Any]


class LayoutSource:
    """Capture the layout of the decoder's next input, from the merge method or from the ``input_ids`` of the model.

    Args:
        adapter: of the model's family.
        inner: the model that the adapter recognised.
        outer: the object whose forward is called, which may wrap ``inner`` (PEFT).
        is_wanted: while it returns False, calls of the model are not looked at.
        begins: called with the arguments of each call of the model that is looked at.

    Raises:
        LayoutError: the model has neither, or its merge method takes other arguments than expected.
    """

    def __init__(
        self,
        adapter: Adapter,
        inner: nn.Module,
        outer: nn.Module,
        is_wanted: Callable[[], bool],
        begins: Callable[[Mapping[str, Any]], None] | None = None,
    ) -> None:
        self.adapter, self.inner = adapter, inner
        self.placeholder_ids = adapter.placeholder_ids(inner)
        self._other_ids = adapter.other_ids(inner)
        self._is_wanted, self._begins = is_wanted, begins
        self._merges = adapter.merges(inner)
        if self._merges:
            _check_signature(adapter, inner)
        elif not self.placeholder_ids:
            raise LayoutError(
                f"adapter {adapter.name}: {type(inner).__name__} has no method {adapter.merge_method}; this version of "
                "the host differs from those known."
            )
        #: inputs of the trainer's compute_loss, for hosts that embed the ids before the model is called
        self.batch: Mapping[str, Any] = {}
        self._merged: Merged | None = None
        self._inputs: Inputs | None = None
        self._problem: LayoutError | None = None
        self._packing = Packing()
        self._one_row_checked = False
        self._removers: list[Any] = []
        self._forward = inspect.signature(type(inner).forward)
        kinds = [parameter.kind for parameter in self._forward.parameters.values()]
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        self._most = (
            sys.maxsize if inspect.Parameter.VAR_POSITIONAL in kinds else sum(kind in positional for kind in kinds) - 1
        )
        if self._merges:
            self._merger = Merger(adapter, inner)
            self._removers.append(Interception(inner, adapter.merge_method, self._merge))
        # Old PEFT calls the inner model's `forward` directly, where no hook of it fires: observe the wrapper too.
        # First of all hooks: ms-swift's replaces the ids by embeddings.
        self._removers += [
            module.register_forward_pre_hook(Hook(self._keep_inputs), with_kwargs=True, prepend=True)
            for module in ([inner] if outer is inner else [inner, outer])
        ]

    def describe(self) -> str:
        """Return where the layout comes from, for the line at the start of a run."""
        ways = [self.adapter.merge_method] if self._merges else []
        if self.placeholder_ids:
            ways.append(f"placeholder tokens {', '.join(str(token) for token in self.placeholder_ids)}")
        return " or ".join(ways)

    def why_unknown(self) -> str:
        """Return what may keep the layout unknown, for messages."""
        reasons = []
        if self._merges:
            reasons.append("the method was not called, or without labels (label smoothing takes them out of the batch)")
        if self.placeholder_ids:
            reasons.append("the model was called without input_ids, or with another number of them than embeddings")
        return "; or ".join(reasons)

    def read(self, observation: Observation, arguments: Mapping[str, Any]) -> None:
        """Fill in layout, labels and token ids of the pass that begins, and release what it was read from.

        Args:
            observation: to be filled in.
            arguments: what the decoder got, by name.

        Raises:
            LayoutError: the layout contradicts the embeddings, or images cannot be in this pass's input.
        """
        merged, inputs, problem, embeds = self._merged, self._inputs, self._problem, observation.inputs_embeds
        if torch.is_grad_enabled() or not self.inner.training:
            self.clear()  # otherwise a pass with gradients may follow on the same input (CAL)
        if problem is not None:
            raise problem
        if embeds is None:
            self._refuse_bare_placeholders(inputs)
        elif merged is not None and (merged.layout is not None or merged.problem is not None):
            self._read_merged(observation, merged, arguments, embeds)
        elif self.placeholder_ids and inputs is not None and inputs.ids.shape == embeds.shape[:2]:
            self._read_inputs(observation, inputs)

    def _read_merged(
        self, observation: Observation, merged: Merged, arguments: Mapping[str, Any], embeds: Tensor
    ) -> None:
        if merged.layout is None:
            raise merged.problem or LayoutError("no layout")
        layout = merged.layout
        if layout.shape != embeds.shape[:2] and merged.embeds is not None:
            observation.layout = in_one_row(layout, merged.embeds, embeds, check=not self._one_row_checked)
            self._one_row_checked = True
            return
        observation.labels, observation.read_token_ids = merged.labels, merged.read_token_ids
        mask = arguments.get("attention_mask")
        marked = any(arguments.get(name) is not None for name in (*LENGTHS, *NUMBERS))
        # Positions that the host made by itself are of one sample a row.
        if merged.has_positions or marked or (isinstance(mask, Tensor) and mask.ndim > 2):
            self._packing.look({name: arguments.get(name) for name in SIGNALS}, layout.image)
            layout = replace(layout, spans=self._packing.spans())
        observation.layout = layout

    def _read_inputs(self, observation: Observation, inputs: Inputs) -> None:
        ids, labels = inputs.ids, inputs.arguments.get("labels")
        labels = labels if isinstance(labels, Tensor) and labels.shape == ids.shape else None
        on = attended(inputs.arguments, ids.shape, ids.device)
        layout = from_placeholders(ids, on, labels, self.placeholder_ids, self._other_ids)
        observation.layout = replace(layout, spans=self._packing.spans())
        observation.read_token_ids = lambda: ids
        observation.labels = labels

    def _refuse_bare_placeholders(self, inputs: Inputs | None) -> None:
        """Stop where ids with image placeholders reach the decoder as they are. Reads the device; a rare path.

        Raises:
            LayoutError: so they do (cross attention, or the images were left out).
        """
        if inputs is not None and self.placeholder_ids and bool(among(inputs.ids, self.placeholder_ids).any()):
            raise LayoutError(
                f"{type(self.inner).__name__} passes input_ids with image placeholders "
                f"{', '.join(str(token) for token in self.placeholder_ids)} to its decoder and no inputs_embeds, so no "
                "position of the sequence holds image features (cross attention?). VISTA needs images in the sequence: "
                "train this model without it."
            )

    def clear(self) -> None:
        """Release the last forward's tensors."""
        self._merged = self._inputs = self._problem = None

    def remove(self) -> None:
        """Remove everything from the model."""
        self.clear()
        for remover in reversed(self._removers):
            remover.remove()
        self._removers = []

    def _merge(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        merged = self._merger(method, args, kwargs, before=self._merged)
        self._merged = None
        if merged.layout is not None or merged.problem is not None:
            signals = {} if self._inputs is None else self._inputs.arguments
            packed = merged.has_positions or any(signals.get(name) is not None for name in SIGNALS[1:])
            # Only a host that packs its rows after merging is compared with the merged embeddings later.
            kept = merged.embeds if self.adapter.packs_rows else None
            self._merged = merged._replace(result=None, embeds=kept, has_positions=packed)
        return merged.result

    def _keep_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._is_wanted():
            return
        if len(args) <= self._most and args:  # a wrapper may take more of its own: the model's come with its own call
            kwargs = {**self._forward.bind_partial(self.inner, *args).arguments, **kwargs}
        ids, embeds = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
        if ids is None and isinstance(embeds, Tensor):
            # Embedded before the call, in a hook of the wrapper or by the trainer. Prompt tuning has more of them.
            known = [self._inputs.ids if self._inputs else None, self.batch.get("input_ids")]
            ids = next((one for one in known if isinstance(one, Tensor) and one.shape == embeds.shape[:2]), None)
        self._inputs = None
        if self._begins is not None:
            self._begins(kwargs)
        if isinstance(ids, Tensor):
            self._inputs = Inputs(ids, kwargs)
            if self.placeholder_ids:
                self._look_for_samples(self._inputs)

    def _look_for_samples(self, inputs: Inputs) -> None:
        try:
            self._packing.look(inputs.arguments, among(inputs.ids, self.placeholder_ids))
        except LayoutError as error:  # the model's own call must not fail by it
            self._problem = error


def _check_signature(adapter: Adapter, inner: nn.Module) -> None:
    method = getattr(type(inner), adapter.merge_method)
    signature = inspect.signature(method)
    missing = [name for name in MERGE_ARGUMENTS if name not in signature.parameters]
    if missing:
        raise LayoutError(
            f"adapter {adapter.name}: {type(inner).__name__}.{adapter.merge_method}{signature} has no argument "
            f"{' and no '.join(missing)}; expected was (..., {', '.join(MERGE_ARGUMENTS)}, ...). This version of the "
            "host differs from those known: an adapter of your own (register_adapter) can name another method."
        )
