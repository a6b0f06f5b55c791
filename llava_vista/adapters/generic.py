"""Models that no other adapter knows, but that merge as a known family does. Their first batch is checked."""

from __future__ import annotations

import inspect

from torch import nn

from .base import MERGE_ARGUMENTS, Adapter, config_placeholder_ids, register_adapter


@register_adapter("generic")
class Generic(Adapter):
    """A model with LLaVA's merge method, or with image token ids in its configuration, that owns an input embedding."""

    fallback = True

    def matches(self, module: nn.Module) -> bool:
        # On the class: PEFT's wrappers forward attributes to the model that they hold.
        if not callable(getattr(type(module), "get_input_embeddings", None)):
            return False
        return self.merges(module) or bool(self.placeholder_ids(module))

    def merges(self, model: nn.Module) -> bool:
        method = getattr(type(model), self.merge_method, None)
        return callable(method) and set(MERGE_ARGUMENTS) <= set(inspect.signature(method).parameters)

    def placeholder_ids(self, model: nn.Module) -> tuple[int, ...]:
        return () if self.merges(model) else config_placeholder_ids(model)
