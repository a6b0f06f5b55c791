"""Call a host's merge method with position codes in the labels' place, and read the layout from what comes back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..adapters import Adapter
from ..errors import LayoutError
from ..layout import SequenceLayout
from .position_codes import check_order, compose, decode, position_codes


class Merged(NamedTuple):
    """What the host gets back, and the layout (None when there was nothing to merge or no labels to code).

    Attributes:
        read_token_ids: returns the original token at each text position (B, L), anything elsewhere.
        labels: (B, L) as the host gets them back. A second merge of one forward (images, then videos) receives these.
        embeds: (B, L, d) the merged embeddings.
    """

    result: Any
    layout: SequenceLayout | None
    read_token_ids: Callable[[], Tensor] | None = None
    labels: Tensor | None = None
    embeds: Tensor | None = None


def merge(
    adapter: Adapter,
    method: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    *,
    check: bool,
    before: Merged | None = None,
) -> Merged:
    """Run the host's merge method; what it returns is as if it had been called plainly.

    Args:
        adapter: knows what the method returns.
        method: the host's own method, bound to its model.
        args, kwargs: what the host passed.
        check: also check the order of the codes, which reads them on the host (first batch only).
        before: the merge before this one, whose outcome the host may be passing on.

    Raises:
        LayoutError: the method returned something that is not understood.
    """
    signature = inspect.signature(method)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        # A call that does not fit the signature is the host's own defect: let its own error come through.
        return Merged(method(*args, **kwargs), None)
    labels, ids = bound.arguments.get("labels"), bound.arguments.get("input_ids")
    if labels is None or ids is None:
        return Merged(method(*args, **kwargs), None)  # generation: the host's own path, untouched

    mask = bound.arguments.get("attention_mask")
    ids = ids.clone()  # some hosts write into them (Bunny)
    bound.arguments["labels"] = position_codes(labels)
    if mask is None:
        # Without a mask, padding on the right would come back as image. Ones change nothing else.
        bound.arguments["attention_mask"] = torch.ones_like(labels, dtype=torch.bool)
    result = method(*bound.args, **bound.kwargs)

    names = adapter.merge_returns.get(len(result)) if isinstance(result, tuple) else None
    if names is None:
        found = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise LayoutError(
            f"adapter {adapter.name}: {adapter.merge_method}{signature} returned {found}; understood are tuples of "
            f"{' or '.join(str(count) for count in sorted(adapter.merge_returns))} values. This version of the host "
            "differs from those known: an adapter of your own (register_adapter) can say what it returns."
        )
    values = dict(zip(names, result, strict=True))
    embeds, codes, merged_mask = values["inputs_embeds"], values["labels"], values["attention_mask"]
    if embeds is None:
        # No image in the batch (or a single token): nothing was merged, the labels come back as they were.
        values["labels"] = labels
        layout = None
    else:
        if not isinstance(codes, torch.Tensor) or not isinstance(merged_mask, torch.Tensor):
            raise LayoutError(
                f"adapter {adapter.name}: {adapter.merge_method} returned labels of type {type(codes).__name__} and an "
                f"attention mask of type {type(merged_mask).__name__}; tensors were expected."
            )
        if codes.shape != embeds.shape[:2]:
            raise LayoutError(
                f"adapter {adapter.name}: {adapter.merge_method} returned inputs_embeds {tuple(embeds.shape)} but "
                f"labels {tuple(codes.shape)}; (B, L, d) and (B, L) were expected."
            )
        if check:
            check_order(codes)
        layout, values["labels"] = decode(codes, merged_mask, labels, bound.arguments["attention_mask"])
        if before is not None and before.layout is not None and before.labels is labels:
            layout = compose(layout, codes, before.layout)
    # A host that makes itself a mask when it gets none returns the same one for ones.
    if mask is None and not adapter.merge_makes_mask:
        values["attention_mask"] = None
    return Merged(
        tuple(values[name] for name in names),
        layout,
        lambda: ids.reshape(-1)[codes.clamp(min=0).long()],
        values["labels"],
        embeds,
    )
