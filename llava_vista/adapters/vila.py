"""VILA (NVlabs/VILA): package name ``llava`` like LLaVA's, but a model around the language model, and another merge."""

from __future__ import annotations

from torch import nn

from .base import VISUAL, Adapter, register_adapter

_PACKAGE = "llava.model.language_model"


@register_adapter("vila")
class Vila(Adapter):
    """``_embed`` merges. Its placeholders are tokens of the vocabulary, which the tokenizer names.

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
    #: `repack_multimodal_data` then concatenates the attended positions of all rows.
    packs_rows = True

    def image_ids(self, model: nn.Module) -> tuple[int, ...]:
        return tuple(token for name, token in _media(model).items() if name in VISUAL) or super().image_ids(model)

    def other_ids(self, model: nn.Module) -> tuple[int, ...]:
        return tuple(token for name, token in _media(model).items() if name not in VISUAL)

    def matches(self, module: nn.Module) -> bool:
        # LLaVA's decoder has the same qualified name as this model, and no such method.
        return super().matches(module) and self.merges(module)


def _media(model: nn.Module) -> dict[str, int]:
    media: dict[str, int] = getattr(getattr(model, "tokenizer", None), "media_token_ids", {})
    return media
