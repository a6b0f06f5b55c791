"""VILA and NVILA: a model around a language model, in three folders; package name ``llava`` like LLaVA's."""

from __future__ import annotations

from collections import defaultdict
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
from .weights import LORA_FILE, quietly

if TYPE_CHECKING:
    from PIL.Image import Image

_REPOSITORY = "NVlabs/VILA"
_PARTS = ("llm", "vision_tower", "mm_projector")
#: Ways to cut an image up; "dynamic_s2" puts features of several scales together by a grid that the batch would need.
_TILED, _UNKNOWN = "dynamic", "dynamic_s2"


@register_host("vila")
class VilaHost(ProbeHost):
    """Whole checkpoints. PS3 models (LlavaTopDownLlamaModel) choose patches by the prompt and are not loaded."""

    architectures = ("LlavaLlamaModel",)

    def missing(self, config: dict[str, Any]) -> str | None:
        return lacking(_REPOSITORY, "llava", ("model/language_model/llava_topdown_llama.py",))

    def load(self, checkpoint: Path, config: dict[str, Any], options: LoadOptions) -> VilaSubject:
        if options.template or options.base:
            raise ProbeError("--template and --base are not for VILA: its checkpoints bring their chat template.")
        absent = [name for name in _PARTS if not (checkpoint / name).is_dir()]
        if absent or (checkpoint / LORA_FILE).is_file():
            raise ProbeError(
                f"{checkpoint} is no whole VILA checkpoint (folders {', '.join(_PARTS)}). Merge LoRA weights into "
                "their base first, with VILA's own llava/utils/merge_lora_weights_and_save_hf_model.py."
            )
        if config.get("image_aspect_ratio") == _UNKNOWN:
            raise ProbeError(f"{checkpoint}: image_aspect_ratio {_UNKNOWN!r} is not supported by the probe.")
        host = load_module("llava.model.language_model.llava_llama", _REPOSITORY)
        settings = host.LlavaLlamaConfig.from_pretrained(checkpoint)
        settings.resume_path = settings._name_or_path = str(checkpoint)
        settings.model_dtype = str(options.dtype)
        with quietly():
            model = host.LlavaLlamaModel(config=settings, attn_implementation="eager")
        model.to(device=options.device, dtype=options.dtype).eval()
        return VilaSubject(model, options)


class VilaSubject(PlaceholderSubject):
    """A loaded checkpoint. Its placeholder is a token of its tokenizer, not a negative number."""

    def __init__(self, model: Any, options: LoadOptions) -> None:
        super().__init__(model, model.tokenizer, options, {"template": "the checkpoint's chat template"})
        self.config: Any = model.config
        self.tower: Any = model.get_vision_tower()
        self.config.image_processor = self.tower.image_processor  # where its functions look for it

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages, pixels = self._messages(turns, image)
        parts = load_module("llava.data.base", _REPOSITORY).preprocess_conversation(messages, self.tokenizer)
        return {"input_ids": parts["input_ids"], "labels": parts["labels"], "pixels": pixels}

    def ask(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages, pixels = self._messages(turns, image)
        tokenize = load_module("llava.remote_code.tokenizer_utils", _REPOSITORY).tokenize_conversation
        return {
            "input_ids": tokenize(messages[:-1], self.tokenizer, add_generation_prompt=True),
            "pixels": pixels,
        }

    def pictures(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        device, dtype = self.options.device, self.options.dtype
        tiles = [tile.to(device, dtype) for item in encoded for tile in item["pixels"]]
        return {"media": {"image": tiles}, "media_config": defaultdict(dict)}

    def separators(self) -> list[str]:
        return list(self.tokenizer.stop_tokens)

    def generate(self, ids: Tensor, pictures: dict[str, Any], **options: Any) -> Tensor:
        output: Tensor = self.model.generate(ids, **pictures, **options)[0]  # type: ignore[operator]
        return output

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        counts = (batch["input_ids"] == self.tokenizer.media_token_ids["image"]).sum(dim=1).tolist()
        features = self.tower(torch.stack(batch["media"]["image"])).float()  # (N, P, d_vision)
        return torch.stack([tiles.mean(dim=(0, 1)) for tiles in features.split(counts)])

    def _messages(self, turns: Sequence[Turn], image: Image) -> tuple[list[dict[str, Any]], Tensor]:
        """The conversation as training has it, the image's mark in front, and its tiles (N, 3, H, W)."""
        strip = load_module("llava.data.dataset_impl.utils", _REPOSITORY)._remove_media_tokens
        images = load_module("llava.mm_utils", _REPOSITORY)
        messages: list[dict[str, Any]] = []
        for turn in turns:
            messages.append({"from": "human", "value": strip(turn.question)})
            messages.append({"from": "gpt", "value": strip(turn.answer or "")})
        messages[0]["value"] = [image, messages[0]["value"]]
        media = load_module("llava.utils.media", _REPOSITORY).extract_media(messages, self.config)
        if self.config.image_aspect_ratio == _TILED:
            pixels, words = images.dynamic_process_images_and_prompt(media["image"], messages[0]["value"], self.config)
            messages[0]["value"] = words
        else:
            pixels = images.process_images(media["image"], self.tower.image_processor, self.config)
        return messages, pixels
