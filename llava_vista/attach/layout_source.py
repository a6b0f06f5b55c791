"""Watching a model for the layout of what its decoder is about to receive."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..adapters import MERGE_ARGUMENTS, Adapter
from ..errors import LayoutError
from ..layout import SequenceLayout
from .decoder_tap import Hook
from .interception import Interception
from .merge import Merged, merge
from .packing import in_one_row
from .placeholders import from_placeholders

#: Arguments by which several samples in one row make themselves known.
PACKING_ARGUMENTS = ("cu_seq_lens_q", "cu_seqlens", "seq_idx")


class Check(Protocol):
    """Somebody who wants to see layouts together with the token ids (B, L) that stand at the text positions."""

    token_ids: Tensor | None

    def __call__(self, embeds: Tensor, layout: SequenceLayout) -> bool: ...

    def remove(self) -> None: ...


class LayoutWatch:
    """Sees the merge method of ``inner``, or the ``input_ids`` that are passed to it, and keeps the latest layout.

    Args:
        adapter: of the model's family.
        inner: the model that the adapter recognised.
        outer: the object whose forward is called, which may wrap ``inner`` (PEFT).
        check: is told each layout until it returns True; it wants the original token ids beside it.

    Raises:
        LayoutError: the model has neither way of telling, or its merge method takes other arguments than expected.
    """

    def __init__(self, adapter: Adapter, inner: nn.Module, outer: nn.Module, check: Check | None = None) -> None:
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
        #: The host may put merged rows one behind another into one, before the decoder.
        self._packs = adapter.packs_rows
        self._check = check
        self._removers: list[Any] = []
        self._forward = inspect.signature(type(inner).forward)
        if self._merges:
            self._removers.append(Interception(inner, adapter.merge_method, self._merge))
        if self.placeholder_ids:
            # Old PEFT calls the inner model's `forward` directly, where no hook of it fires: watch the wrapper too.
            self._removers += [
                module.register_forward_pre_hook(Hook(self._see), with_kwargs=True)
                for module in ([inner] if outer is inner else [inner, outer])
            ]

    def describe(self) -> str:
        """Where the layout comes from, for the line at the start of a run."""
        ways = [self.adapter.merge_method] if self._merges else []
        if self.placeholder_ids:
            ways.append(f"placeholder tokens {', '.join(str(token) for token in self.placeholder_ids)}")
        return " or ".join(ways)

    def why_unknown(self) -> str:
        """What may have kept the layout from being told, for messages."""
        reasons = []
        if self._merges:
            reasons.append("the method was not called, or without labels (label smoothing takes them out of the batch)")
        if self.placeholder_ids:
            reasons.append("the model was called without input_ids, or with another number of them than embeddings")
        return "; or ".join(reasons)

    def take(self, embeds: Tensor | None) -> SequenceLayout | None:
        """The layout of ``embeds`` (B, L, d), once; None when it is unknown.

        Raises:
            LayoutError: the layout contradicts the embeddings.
        """
        merged, inputs = self._merged, self._inputs
        layout = None if merged is None else merged.layout
        if torch.is_grad_enabled() or not self.inner.training:
            self.clear()
        # Otherwise it may be a side computation: CAL runs its decoder without gradients first, and once more with them.
        if embeds is None:
            return None
        if layout is not None and layout.shape != embeds.shape[:2] and merged is not None and merged.embeds is not None:
            layout = in_one_row(layout, merged.embeds, embeds, check=not self._packing_checked)
            self._packing_checked = True
        if layout is None and inputs is not None and inputs["input_ids"].shape == embeds.shape[:2]:
            first, self._seen_first = not self._seen_first, True
            _refuse_packing(inputs, first, type(self.inner).__name__)
            ids = inputs["input_ids"]
            layout = from_placeholders(ids, inputs.get("attention_mask"), inputs.get("labels"), self.placeholder_ids)
            if self._check is not None:
                self._check.token_ids = ids
        if (
            layout is not None
            and layout.shape == embeds.shape[:2]
            and self._check is not None
            and self._check(embeds, layout)
        ):
            self._check = None
        return layout

    def clear(self) -> None:
        """Let go of the last forward's tensors."""
        self._merged = self._inputs = None

    def remove(self) -> None:
        """Take everything off the model again."""
        self.clear()
        for remover in reversed(self._removers):
            remover.remove()
        self._removers = []
        if self._check is not None:
            self._check.remove()

    def _merge(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        check = self._check is not None or not self._seen_first
        merged = merge(self.adapter, method, args, kwargs, check=check, before=self._merged)
        if merged.layout is not None:
            kept = merged.embeds if self._packs else None
            self._merged, self._seen_first = merged._replace(result=None, embeds=kept), True
            if self._check is not None:
                self._check.token_ids = merged.token_ids
        return merged.result

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args:
            kwargs = {**self._forward.bind_partial(self.inner, *args).arguments, **kwargs}
        if isinstance(kwargs.get("input_ids"), Tensor):
            self._inputs = {
                name: kwargs.get(name) for name in ("input_ids", "attention_mask", "labels", "position_ids")
            } | {name: kwargs[name] for name in PACKING_ARGUMENTS if kwargs.get(name) is not None}
        elif module is self.inner:
            self._inputs = None  # a wrapper's own embeddings (prompt tuning): the ids do not tell the layout


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
    """Several samples in one row cannot be aligned: whose image would it be? Reads the device on the first batch only.

    Raises:
        LayoutError: the inputs tell of packing.
    """
    found = [argument for argument in PACKING_ARGUMENTS if argument in inputs]
    positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
    if not found and first and isinstance(positions, Tensor) and positions.ndim == 2 and positions.shape[1] > 1:
        restarts = positions[:, 1:] <= positions[:, :-1]
        if isinstance(mask, Tensor) and mask.shape == inputs["input_ids"].shape:
            restarts = restarts & mask[:, 1:].bool() & mask[:, :-1].bool()
        found = ["position_ids that start anew within a row"] if bool(restarts.any()) else []
    if found:
        raise LayoutError(
            f"{name} got {' and '.join(found)}: several samples are packed into one row, and VISTA cannot tell there "
            "which text belongs to which image. Switch packing (padding-free training) off."
        )
