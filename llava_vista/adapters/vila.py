"""VILA (NVlabs/VILA): package name ``llava`` like LLaVA's, but a model around the language model, and another merge."""

from __future__ import annotations

from torch import nn

from .base import Adapter, register_adapter

_PACKAGE = "llava.model.language_model"


@register_adapter("vila")
class Vila(Adapter):
    """``_embed`` merges. It makes a mask itself when it gets none, and the labels are not the last value.

    Embedded text without labels (newlines) follows the media tokens: these are image positions too. The stack that
    owns the input embedding is ``llm.model``.
    """

    classes = (
        f"{_PACKAGE}.llava_llama.LlavaLlamaModel",
        f"{_PACKAGE}.llava_topdown_llama.LlavaTopDownLlamaModel",
    )
    merge_method = "_embed"
    merge_returns = {
        3: ("inputs_embeds", "labels", "attention_mask"),
        5: ("inputs_embeds", "labels", "attention_mask", "selection_maps", "selection_probs"),
    }
    merge_makes_mask = True
    #: `repack_multimodal_data` then concatenates the attended positions of all rows.
    packs_rows = True

    def matches(self, module: nn.Module) -> bool:
        # LLaVA's decoder has the same qualified name as this model, and no such method.
        return super().matches(module) and self.merges(module)
