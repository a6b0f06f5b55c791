"""TinyLLaVA Factory: one class over any language model; a checkpoint is one file, or one folder for each part."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....errors import ProbeError
from ..data import Turn
from .base import LoadOptions, ProbeHost, register_host
from .placeholder import PlaceholderSubject
from .sources import lacking, load_module
from .weights import LORA_FILE, has_weights, quietly

if TYPE_CHECKING:
    from PIL.Image import Image

_REPOSITORY = "TinyLLaVA/TinyLLaVA_Factory"
#: The model's parts: folder of the checkpoint, and module.
_PARTS = {"language_model": "language_model", "vision_tower": "vision_tower._vision_tower", "connector": "connector"}
_PART_FILE = "pytorch_model.bin"
#: By the language model's type, what its launch scripts train with. Stage 1 has "pretrain".
_TEMPLATES = {
    "phi": "phi",
    "stablelm": "phi",
    "llama": "llama",
    "gemma": "gemma",
    "qwen2": "qwen2_base",
}


@register_host("tinyllava")
class TinyLlavaHost(ProbeHost):
    """LoRA checkpoints bring their base along; none could be made to try it (its recipe fails on ``peft_config``)."""

    architectures = ("TinyLlavaForConditionalGeneration",)
    model_types = ("tinyllava",)

    def missing(self, config: dict[str, Any]) -> str | None:
        return lacking(_REPOSITORY, "tinyllava", ("model/modeling_tinyllava.py",))

    def load(self, checkpoint: Path, config: dict[str, Any], options: LoadOptions) -> TinyLlavaSubject:
        host = load_module("tinyllava.model", _REPOSITORY)
        templates = load_module("tinyllava.data.template", _REPOSITORY).TEMPlATE_FACTORY
        parts = [name for name in _PARTS if (checkpoint / name / _PART_FILE).is_file()]
        if not has_weights(checkpoint) and len(parts) < len(_PARTS):
            raise ProbeError(
                f"{checkpoint} holds neither a whole model (*.safetensors) nor one in parts "
                f"({', '.join(f'{name}/{_PART_FILE}' for name in _PARTS)})."
            )
        settings = host.TinyLlavaConfig.from_pretrained(checkpoint)
        # the attention whose weights can be seen, in every part that the model makes from its configuration
        settings.text_config._attn_implementation = "eager"
        template = options.template or _TEMPLATES.get(settings.text_config.model_type)
        if template is None or template not in templates:
            raise ProbeError(
                f"--template: {template!r} is no template of {_REPOSITORY}; it has {', '.join(sorted(templates))}."
            )
        cls = host.TinyLlavaForConditionalGeneration
        with quietly():
            if has_weights(checkpoint):
                model = cls.from_pretrained(checkpoint, config=settings, attn_implementation="eager")
            else:
                model = _from_parts(cls(settings), checkpoint)
        model.to(device=options.device, dtype=options.dtype).eval()
        return TinyLlavaSubject(model, template, options)


class TinyLlavaSubject(PlaceholderSubject):
    """A loaded checkpoint."""

    def __init__(self, model: Any, template: str, options: LoadOptions) -> None:
        super().__init__(model, model.tokenizer, options, {"template": template})
        from tinyllava.data.image_preprocess import ImagePreprocess
        from tinyllava.data.text_preprocess import TextPreprocess

        self._words: Any = TextPreprocess(self.tokenizer, template)
        self._picture: Any = ImagePreprocess(model.vision_tower._image_processor, model.config)

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        return {**self._words(_messages(turns), mode="train"), "image": image}

    def ask(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages = _messages(turns)
        messages[-1]["value"] = None
        return {"input_ids": self._words(messages, mode="eval")["input_ids"], "image": image}

    def pictures(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        device, dtype = self.options.device, self.options.dtype
        return {"images": torch.stack([self._picture(item["image"]).to(device, dtype) for item in encoded])}

    def separators(self) -> list[str]:
        return [text for text in self._words.template.separator.apply()[1:] if text]

    def generate(self, ids: Tensor, pictures: dict[str, Any], **options: Any) -> Tensor:
        output: Tensor = self.model.generate(ids, **pictures, **options)[0]  # type: ignore[operator]
        return output

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        config: Any = self.model.config
        features: Tensor = self.model.vision_tower(  # type: ignore[operator]
            batch["images"],
            vision_feature_layer=config.vision_feature_layer,
            vision_feature_select_strategy=config.vision_feature_select_strategy,
        )
        return features.float().mean(dim=1)


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    return [
        message
        for turn in turns
        for message in ({"from": "human", "value": turn.question}, {"from": "gpt", "value": turn.answer or ""})
    ]


def _from_parts(model: Any, checkpoint: Path) -> Any:
    """The model with the weights of the checkpoint's folders, and its LoRA merged if there is one.

    Raises:
        ProbeError: a part does not fit the configuration.
    """
    for folder, name in _PARTS.items():
        file, module = checkpoint / folder / _PART_FILE, model.get_submodule(name)
        held = torch.load(file, map_location="cpu", weights_only=True)
        state = {key.replace(".base_layer", ""): value for key, value in held.items()}
        parameters = {key for key, _ in module.named_parameters()}  # once each: a tied table is saved under one name
        missing, unexpected = module.load_state_dict(state, strict=False)
        wrong = [*unexpected, *(key for key in missing if key in parameters)]
        if wrong:
            raise ProbeError(f"{file} does not fit the configuration of {checkpoint}: {wrong[0]} is on one side only.")
    if (checkpoint / LORA_FILE).is_file():
        from peft.peft_model import PeftModel

        model = PeftModel.from_pretrained(model, checkpoint).merge_and_unload()
    return model
