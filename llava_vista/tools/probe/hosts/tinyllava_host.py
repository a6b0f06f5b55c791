"""TinyLLaVA Factory: one class over any language model; a checkpoint is one file, or one folder for each part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ....errors import ProbeError
from ..conversation_samples import Turn, llava_messages
from .checkpoint_weights import LORA_FILE, has_weights, quietly
from .probe_host import LoadOptions, register_host
from .repository_host import RepositoryHost

#: The model's parts: folder of the checkpoint, and module.
_PARTS = {"language_model": "language_model", "vision_tower": "vision_tower._vision_tower", "connector": "connector"}
_PART_FILE = "pytorch_model.bin"
#: The template that its launch scripts train each type of language model with. Stage 1 has "pretrain".
_TEMPLATES = {"phi": "phi", "stablelm": "phi", "llama": "llama", "gemma": "gemma", "qwen2": "qwen2_base"}


@register_host("tinyllava")
class TinyLlavaHost(RepositoryHost):
    """LoRA checkpoints are refused: its LoRA recipe fails on ``peft_config``, so none could be made to try."""

    architectures = ("TinyLlavaForConditionalGeneration",)
    model_types = ("tinyllava",)
    repository = "TinyLLaVA/TinyLLaVA_Factory"
    package = "tinyllava"
    holds = ("model/modeling_tinyllava.py",)

    def __init__(self, folder: Path, config: dict[str, Any], options: LoadOptions) -> None:
        self.options = options
        host, templates = self.module("model"), self.module("data.template").TEMPlATE_FACTORY
        is_whole = has_weights(folder)
        if (folder / LORA_FILE).is_file():
            raise ProbeError(f"{folder} holds LoRA weights of TinyLLaVA; merge them into their base first.")
        if not is_whole and not all((folder / name / _PART_FILE).is_file() for name in _PARTS):
            parts = ", ".join(f"{name}/{_PART_FILE}" for name in _PARTS)
            raise ProbeError(f"{folder} holds neither a whole model (*.safetensors) nor one in parts ({parts}).")
        settings = host.TinyLlavaConfig.from_pretrained(folder)
        # attention that returns its weights, in every part that the model makes from its configuration
        settings.text_config._attn_implementation = "eager"
        wanted = options.template or _TEMPLATES.get(settings.text_config.model_type)
        template = self.choose_template(wanted, list(templates))
        cls = host.TinyLlavaForConditionalGeneration
        with quietly():
            if is_whole:
                self.model = cls.from_pretrained(folder, config=settings, attn_implementation="eager")
            else:
                self.model = _from_parts(cls(settings), folder)
        self.model.to(device=options.device, dtype=options.dtype).eval()
        self.tokenizer = self.model.tokenizer
        self._tokenize = self.module("data.text_preprocess").TextPreprocess(self.tokenizer, template)
        processor = self.model.vision_tower._image_processor
        self._process = self.module("data.image_preprocess").ImagePreprocess(processor, self.model.config)

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        return {**self._tokenize(llava_messages(turns), mode="train"), "image": image}

    def ask(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages = llava_messages(turns)
        messages[-1]["value"] = None
        return {"input_ids": self._tokenize(messages, mode="eval")["input_ids"], "image": image}

    def pictures(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        device, dtype = self.options.device, self.options.dtype
        return {"images": torch.stack([self._process(item["image"]).to(device, dtype) for item in encoded])}

    def separators(self) -> list[str]:
        return [text for text in self._tokenize.template.separator.apply()[1:] if text]

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        config = self.model.config
        features: Tensor = self.model.vision_tower(
            batch["images"],
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )
        return features.float().mean(dim=1)


def _from_parts(model: Any, checkpoint: Path) -> Any:
    """Return the model with the weights of the checkpoint's folders.

    Raises:
        ProbeError: a part does not fit the configuration.
    """
    for folder, name in _PARTS.items():
        file, module = checkpoint / folder / _PART_FILE, model.get_submodule(name)
        state = torch.load(file, map_location="cpu", weights_only=True)
        parameters = {key for key, _ in module.named_parameters()}  # once each: a tied table is saved under one name
        missing, unexpected = module.load_state_dict(state, strict=False)
        wrong = [*unexpected, *(key for key in missing if key in parameters)]
        if wrong:
            raise ProbeError(f"{file} does not fit the configuration of {checkpoint}: {wrong[0]} is on one side only.")
    return model
