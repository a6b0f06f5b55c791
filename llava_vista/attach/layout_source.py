"""The layout of what a decoder is about to receive, captured on the way there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..adapters import MERGE_ARGUMENTS, Adapter
from ..errors import LayoutError
from .decoder_tap import Hook
from .interception import Interception
from .merge import Merged, merge
from .packing import in_one_row
from .placeholders import from_placeholders

if TYPE_CHECKING:
    from .observation import Observation

#: Arguments that say that several samples share a row.
PACKING_ARGUMENTS = ("cu_seq_lens_q", "cu_seqlens", "seq_idx")


class LayoutSource:
    """Capture the layout of the decoder's next input, from the merge method or from the ``input_ids`` of the model.

    Args:
        adapter: of the model's family.
        inner: the model that the adapter recognised.
        outer: the object whose forward is called, which may wrap ``inner`` (PEFT).

    Raises:
        LayoutError: the model has neither, or its merge method takes other arguments than expected.
    """

    def __init__(self, adapter: Adapter, inner: nn.Module, outer: nn.Module) -> None:
        self.adapter, self.inner = adapter, inner
        self.placeholder_ids = adapter.placeholder_ids(inner)
        self._merges = adapter.merges(inner)
        if self._merges:
            _check_signature(adapter, inner)
        elif not self.placeholder_ids:
            raise LayoutError(
                f"adapter {adapter.name}: {type(inner).__name__} has no method {adapter.merge_method}; this version of "
                "the host differs from those known."
            )
        self._merged: Merged | None = None
        self._inputs: dict[str, Any] | None = None
        self._seen_first = self._packing_checked = False
        self._removers: list[Any] = []
        self._forward = inspect.signature(type(inner).forward)
        if self._merges:
            self._removers.append(Interception(inner, adapter.merge_method, self._merge))
        if self.placeholder_ids:
            # Old PEFT calls the inner model's `forward` directly, where no hook of it fires: observe the wrapper too.
            self._removers += [
                module.register_forward_pre_hook(Hook(self._keep_inputs), with_kwargs=True)
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

    def read(self, observation: Observation) -> None:
        """Fill in layout, labels and token ids of the pass that begins, and release what it was read from.

        Raises:
            LayoutError: the layout contradicts the embeddings, or images cannot be in this pass's input.
        """
        merged, inputs, embeds = self._merged, self._inputs, observation.inputs_embeds
        if torch.is_grad_enabled() or not self.inner.training:
            self.clear()  # otherwise a pass with gradients may follow on the same input (CAL)
        if embeds is None:
            self._refuse_bare_placeholders(inputs)
        elif merged is not None and merged.layout is not None:
            self._read_merged(observation, merged, embeds)
        elif inputs is not None and inputs["input_ids"].shape == embeds.shape[:2]:
            self._read_inputs(observation, inputs)

    def _read_merged(self, observation: Observation, merged: Merged, embeds: Tensor) -> None:
        layout = merged.layout
        if layout is not None and layout.shape != embeds.shape[:2] and merged.embeds is not None:
            layout = in_one_row(layout, merged.embeds, embeds, check=not self._packing_checked)
            self._packing_checked = True
        observation.layout = layout
        if layout is merged.layout:
            observation.labels, observation.read_token_ids = merged.labels, merged.read_token_ids

    def _read_inputs(self, observation: Observation, inputs: dict[str, Any]) -> None:
        first, self._seen_first = not self._seen_first, True
        _refuse_packing(inputs, first, type(self.inner).__name__)
        ids, labels = inputs["input_ids"], inputs.get("labels")
        observation.layout = from_placeholders(ids, inputs.get("attention_mask"), labels, self.placeholder_ids)
        observation.read_token_ids = lambda: ids
        if isinstance(labels, Tensor) and labels.shape == ids.shape:
            observation.labels = labels

    def _refuse_bare_placeholders(self, inputs: dict[str, Any] | None) -> None:
        """Stop where ids with image placeholders reach the decoder as they are. Reads the device; a rare path.

        Raises:
            LayoutError: so they do (cross attention, or the images were left out).
        """
        if inputs is None or not self.placeholder_ids:
            return
        ids = inputs["input_ids"]
        if bool(torch.stack([(ids == token).any() for token in self.placeholder_ids]).any()):
            raise LayoutError(
                f"{type(self.inner).__name__} passes input_ids with image placeholders "
                f"{', '.join(str(token) for token in self.placeholder_ids)} to its decoder and no inputs_embeds, so no "
                "position of the sequence holds image features (cross attention?). VISTA needs images in the sequence: "
                "train this model without it."
            )

    def clear(self) -> None:
        """Release the last forward's tensors."""
        self._merged = self._inputs = None

    def remove(self) -> None:
        """Remove everything from the model."""
        self.clear()
        for remover in reversed(self._removers):
            remover.remove()
        self._removers = []

    def _merge(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        merged = merge(self.adapter, method, args, kwargs, check=not self._seen_first, before=self._merged)
        self._merged = None
        if merged.layout is not None:
            # Only a host that packs its rows after merging is compared with the merged embeddings later.
            kept = merged.embeds if self.adapter.packs_rows else None
            self._merged, self._seen_first = merged._replace(result=None, embeds=kept), True
        return merged.result

    def _keep_inputs(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            kwargs = {**self._forward.bind_partial(self.inner, *args).arguments, **kwargs}
        if isinstance(kwargs.get("input_ids"), Tensor):
            self._inputs = {
                name: kwargs.get(name) for name in ("input_ids", "attention_mask", "labels", "position_ids")
            } | {name: kwargs[name] for name in PACKING_ARGUMENTS if kwargs.get(name) is not None}
        elif module is self.inner:
            self._inputs = None  # a wrapper's own embeddings (prompt tuning): the ids do not give the layout


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


def _refuse_packing(inputs: dict[str, Any], first: bool, name: str) -> None:
    """Refuse several samples in one row. Reads the device on the first batch only.

    Raises:
        LayoutError: the inputs say that samples are packed.
    """
    found = [argument for argument in PACKING_ARGUMENTS if argument in inputs]
    positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    if not found and first and isinstance(positions, Tensor) and positions.ndim == 2 and positions.shape[1] > 1:
        restarts = positions[:, 1:] <= positions[:, :-1]
        if isinstance(mask, Tensor) and mask.shape == inputs["input_ids"].shape:
            restarts = restarts & mask[:, 1:].bool() & mask[:, :-1].bool()
        found = ["position_ids that start again within a row"] if bool(restarts.any()) else []
    if found:
        raise LayoutError(
            f"{name} got {' and '.join(found)}: several samples are packed into one row, and VISTA cannot tell there "
            "which text belongs to which image. Switch packing (padding-free training) off."
        )
