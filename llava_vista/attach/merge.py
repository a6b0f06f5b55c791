"""Call a host's merge method with position codes in the labels' place, and read the layout from what comes back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..errors import LayoutError
from ..layout import SequenceLayout
from .host_copy import HostCopy
from .merge_proof import HostState, Slots, differences, find_slots, run_plainly
from .placeholders import among
from .position_codes import Tokens, check_order, compose, decode, position_codes, unknown_kinds


class Merged(NamedTuple):
    """What the host gets back, and the layout (None when there was nothing to merge or no labels to code).

    Attributes:
        read_token_ids: returns the original token at each text position (B, L), anything elsewhere.
        labels: (B, L) as the host gets them back. A second merge of one forward (images, then videos) receives these.
        embeds: (B, L, d) the merged embeddings.
        problem: why there is no layout, although images were merged.
        has_positions: the host passed position ids, which may tell samples in one row apart.
    """

    result: Any
    layout: SequenceLayout | None = None
    read_token_ids: Callable[[], Tensor] | None = None
    labels: Tensor | None = None
    embeds: Tensor | None = None
    problem: LayoutError | None = None
    has_positions: bool = False


class Merger:
    """Runs the merge method of one model; what it returns is as if it had been called plainly.

    The first merge is also run plainly, and every value must be the same. That run also shows where the embeddings,
    labels and mask are among the returned values, and whether the host makes a mask when it gets none. After a problem
    the method is called plainly: VISTA has no layout then, and the host what it would have without VISTA.

    Args:
        adapter: knows the method, and the placeholders.
        model: that it recognised.
    """

    def __init__(self, adapter: Adapter, model: nn.Module) -> None:
        self.adapter, self.model = adapter, model
        self._image_ids, self._other_ids = adapter.image_ids(model), adapter.other_ids(model)
        self._slots: Slots | None = None
        #: whether the mask's value is None without VISTA; known once a merge without a mask was proved
        self._returns_no_mask: dict[bool, bool] = {}
        self._problem: LayoutError | None = None
        self._flags = HostCopy()

    def __call__(
        self, method: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], before: Merged | None = None
    ) -> Merged:
        """Merge.

        Args:
            method: the host's own method, bound to its model.
            args, kwargs: what the host passed.
            before: the merge before this one, whose outcome the host may be passing on.
        """
        signature = inspect.signature(method)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            # A call that does not fit the signature is the host's own defect: let its own error come through.
            return Merged(method(*args, **kwargs))
        given = bound.arguments
        if given.get("labels") is None or given.get("input_ids") is None:
            return Merged(method(*args, **kwargs))  # generation: the host's own path, untouched
        if self._problem is not None:
            return Merged(method(*args, **kwargs), problem=self._problem)
        proved = (given.get("attention_mask") is None) in self._returns_no_mask
        state = plain = None
        if not proved:
            state = HostState(self.model)
            plain = run_plainly(method, args, kwargs)
            state.restore()
        try:
            return self._merge(method, bound, before, plain)
        except LayoutError as error:
            if state is not None:
                state.restore()
            self._problem = LayoutError(
                f"adapter {self.adapter.name}: {type(self.model).__name__}.{self.adapter.merge_method}{signature}: {error}"
            )
        return Merged(method(*args, **kwargs), problem=self._problem)

    def _merge(
        self, method: Callable[..., Any], bound: inspect.BoundArguments, before: Merged | None, plain: Any
    ) -> Merged:
        """Merge with position codes. ``plain`` is what a plain run returned, where that is to be compared.

        Raises:
            LayoutError: the method returned something that is not understood, or not what it returned plainly.
        """
        labels, ids, mask = (bound.arguments.get(name) for name in ("labels", "input_ids", "attention_mask"))
        ids = ids.clone()  # some hosts write into them (Bunny)
        codes_in = bound.arguments["labels"] = position_codes(labels)
        # Without a mask, padding on the right would come back as image. Ones change nothing else.
        ones = torch.ones_like(labels, dtype=torch.bool)
        if mask is None:
            bound.arguments["attention_mask"] = ones
        elif mask.shape != ids.shape:
            raise LayoutError(f"it got attention_mask {tuple(mask.shape)} for input_ids {tuple(ids.shape)}")
        tokens = Tokens.read(ids, ones if mask is None else mask, self._image_ids, self._other_ids)
        self._flags.start(torch.stack([self._unknown(ids).any(), tokens.mixed()]).to(torch.uint8))
        result = method(*bound.args, **bound.kwargs)

        names = self.adapter.merge_returns.get(len(result), ()) if isinstance(result, (tuple, list)) else None
        if names is None or (plain is not None and len(plain) != len(result)):
            raise LayoutError(f"it returned {type(result).__name__}; tuples of one length are understood.")
        width = self.model.get_input_embeddings().weight.shape[-1]  # type: ignore[operator]
        slots = self._slots if plain is None else find_slots(plain, result, codes_in, names, width)
        if slots is None or len(result) <= max(at for at in slots if at is not None):
            raise LayoutError(f"it returned {len(result)} values, another number than before.")
        values = list(result)
        no_mask = mask is None and slots.mask is not None and self._returns_no_mask.get(True, False)
        if plain is not None and slots.mask is not None:
            no_mask = mask is None and plain[slots.mask] is None
        embeds = None if slots.embeds is None else values[slots.embeds]
        merged = Merged(None)
        if embeds is None:
            # No image in the batch (or a single token): nothing was merged, the labels come back as they were.
            values[slots.labels] = labels
        else:
            merged = self._read(values, slots, labels, tokens, before, check=plain is not None)
            values[slots.labels] = merged.labels
        values = [None if value is ones or (no_mask and at == slots.mask) else value for at, value in enumerate(values)]
        if plain is not None:
            wrong = differences(plain, values, names, slots)
            if wrong:
                raise LayoutError(
                    f"it returned another {' and '.join(wrong)} with position codes in the labels' place than with the "
                    "labels. It reads the values of labels, from which VISTA learns the layout, or is random in a way "
                    "that cannot be repeated. Train this model without VISTA, or name another method in an adapter of "
                    "your own (merge_method)."
                )
            if embeds is not None:
                self._slots, self._returns_no_mask[mask is None] = slots, no_mask
        result = type(result)._make(values) if hasattr(result, "_make") else type(result)(values)
        positions = bound.arguments.get("position_ids") is not None
        return merged._replace(result=result, embeds=embeds, has_positions=positions)

    def _read(
        self, values: list[Any], slots: Slots, labels: Tensor, tokens: Tokens, before: Merged | None, *, check: bool
    ) -> Merged:
        """Read the layout from what came back; ``check`` reads the device.

        Raises:
            LayoutError: the returned values do not fit each other.
        """
        codes, embeds = values[slots.labels], values[slots.embeds or 0]
        if slots.mask is None or codes.shape != embeds.shape[:2]:
            raise LayoutError(
                f"it returned inputs_embeds {tuple(embeds.shape)}, labels {tuple(codes.shape)} and "
                f"{'no' if slots.mask is None else 'an'} attention mask; (B, L, d) and twice (B, L) were expected."
            )
        if check:
            check_order(codes)
        layout, merged_labels, token = decode(codes, values[slots.mask], labels, tokens)
        if before is not None and before.layout is not None and before.labels is labels:
            layout = compose(layout, token, before.layout)
        problem = self._placeholder_problem(tokens, token, layout, codes, values[slots.mask], check=check)
        read_ids = lambda: tokens.ids[token]  # noqa: E731
        return Merged(None, None if problem else layout, read_ids, merged_labels, problem=problem)

    def _unknown(self, ids: Tensor) -> Tensor:
        return (ids < 0) & ~among(ids, (*self._image_ids, *self._other_ids))

    def _placeholder_problem(
        self, tokens: Tokens, token: Tensor, layout: SequenceLayout, codes: Tensor, mask: Tensor, *, check: bool
    ) -> LayoutError | None:
        """Return why it is unclear which rows are image rows, if it is. Reads the device in that case, and to check."""
        unknown, mixed = self._flags.read()
        sheet = f"An adapter of your own (register_adapter) names them: image_ids, other_ids. Known image placeholders: {', '.join(map(str, self._image_ids)) or 'none'}"
        if unknown:
            found = sorted(set(tokens.ids[self._unknown(tokens.ids)].tolist()))
        else:
            found = sorted(unknown_kinds(codes, mask, tokens)) if check else []
        if unknown or len(found) > 1:
            return LayoutError(
                f"adapter {self.adapter.name}: input_ids hold placeholders {', '.join(map(str, found))}, and it is "
                f"unknown whether they stand for images. {sheet}."
            )
        if mixed:
            return LayoutError(
                f"adapter {self.adapter.name}: placeholders of an image and of another modality are neighbours in "
                "input_ids, so VISTA cannot separate their rows. Put a token between them."
            )
        return None
