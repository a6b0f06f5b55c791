"""transformers' own Llava on a set-up's parts, with the tower's features looked up instead of computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from encode import Row, pad
from prepare import LAYER, Setup
from torch import Tensor, nn

#: An id that no text here contains (the byte piece <0x00>), so that the vocabulary need not grow.
IMAGE_ID = 3
PAD_ID = 0


class KnownTower(nn.Module):
    """In place of the frozen tower: what it is given as pixels are its features already."""

    def forward(self, features: Tensor, **_: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(last_hidden_state=features, hidden_states=(features,) * -LAYER)


def merges_inside(model: Any) -> bool:
    """Return whether this transformers' Llava puts a picture's features in the place of one id, as 4.37 does."""
    return hasattr(model, "_merge_input_ids_with_image_features")


def base_of(model: Any) -> Any:
    """Return what holds tower, projector and language model: the class itself before transformers 5."""
    return model if hasattr(model, "multi_modal_projector") else model.model


def build_model(setup: Setup) -> nn.Module:
    """Llava with the language model taught by text alone and the untrained projector that all arms start from."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig
    from transformers import LlavaForConditionalGeneration as Llava

    config = LlavaConfig(
        vision_config=CLIPVisionConfig.from_pretrained(setup.vision_tower),
        text_config=LlamaConfig.from_pretrained(setup.language_model),
        image_token_index=IMAGE_ID,
        vision_feature_layer=LAYER,
        pad_token_id=PAD_ID,
    )
    model: Any = Llava(config)
    base_of(model).vision_tower = KnownTower()
    load_language_model(model, LlamaForCausalLM.from_pretrained(setup.language_model).state_dict())
    load_projector(model, torch.load(setup.projector, weights_only=True))
    built: nn.Module = model
    return built


def load_language_model(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Load a `LlamaForCausalLM`'s weights."""
    language_model = base_of(model).language_model
    if hasattr(language_model, "lm_head"):
        language_model.load_state_dict(weights)
        return
    language_model.load_state_dict(
        {key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")}
    )
    model.lm_head.load_state_dict({"weight": weights["lm_head.weight"]})


def load_projector(model: Any, weights: Mapping[str, Tensor]) -> None:
    """LLaVA's projector weights (``model.mm_projector.0.weight``, ...) into transformers' names."""
    names = {"model.mm_projector.0": "linear_1", "model.mm_projector.2": "linear_2"}
    base_of(model).multi_modal_projector.load_state_dict(
        {f"{names[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value.float() for key, value in weights.items()}
    )


def load_llava(setup: Setup, checkpoint: Path) -> nn.Module:
    """A checkpoint of the real pipeline in this model, so that both paths are read by the same code."""
    from safetensors.torch import load_file

    weights: dict[str, Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        weights.update(load_file(file))
    for file in sorted(checkpoint.glob("pytorch_model*.bin")):
        weights.update(torch.load(file, weights_only=True))
    model: Any = build_model(setup)
    apart = ("model.mm_projector", "model.vision_tower")
    load_projector(model, {key: value for key, value in weights.items() if key.startswith(apart[0])})
    load_language_model(model, {key: value.float() for key, value in weights.items() if not key.startswith(apart)})
    loaded: nn.Module = model
    return loaded


def make_batch(rows: Sequence[Row], features: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Inputs of the model for rows with one picture each, on its device."""
    pixels = torch.stack([features[row.picture] for row in rows])  # (B, 1 + patches, d)
    copies = 1 if merges_inside(model) else pixels.shape[1] - 1  # the class token is dropped
    ids, labels, mask = pad(rows, IMAGE_ID, PAD_ID, copies)
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask, "pixel_values": pixels}
    return {name: value.to(model.device) for name, value in batch.items()}
