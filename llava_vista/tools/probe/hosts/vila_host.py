"""VILA and NVILA: a model around a language model, in three folders. Its package is named ``llava`` like LLaVA's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ....errors import ProbeError
from ..conversation_samples import Turn, llava_messages
from .checkpoint_weights import LORA_FILE, quietly
from .probe_host import LoadOptions, register_host
from .repository_host import RepositoryHost

_PARTS = ("llm", "vision_tower", "mm_projector")
#: Ways to tile an image. "dynamic_s2" combines features of several scales by a grid that the batch would need.
_TILED, _REFUSED = "dynamic", "dynamic_s2"


@register_host("vila")
class VilaHost(RepositoryHost):
    """Whole checkpoints. The placeholder is a token of the tokenizer, not a negative number.

    PS3 models (LlavaTopDownLlamaModel) choose patches by the prompt and are not loaded.
    """

    architectures = ("LlavaLlamaModel",)
    repository = "NVlabs/VILA"
    package = "llava"
    holds = ("model/language_model/llava_topdown_llama.py",)

    def __init__(self, folder: Path, config: dict[str, Any], options: LoadOptions) -> None:
        if options.template or options.base:
            raise ProbeError("--template and --base are not for VILA: its checkpoints have their own chat template.")
        if (folder / LORA_FILE).is_file() or not all((folder / name).is_dir() for name in _PARTS):
            raise ProbeError(
                f"{folder} is no whole VILA checkpoint (folders {', '.join(_PARTS)}). Merge LoRA weights into their "
                "base first, with VILA's own llava/utils/merge_lora_weights_and_save_hf_model.py."
            )
        if config.get("image_aspect_ratio") == _REFUSED:
            raise ProbeError(f"{folder}: image_aspect_ratio {_REFUSED!r} is not supported by the probe.")
        self.options, self.notes = options, {"template": "the checkpoint's chat template"}
        host = self.module("model.language_model.llava_llama")
        settings = host.LlavaLlamaConfig.from_pretrained(folder)
        settings.resume_path = settings._name_or_path = str(folder)
        settings.model_dtype = str(options.dtype)
        with quietly():
            self.model = host.LlavaLlamaModel(config=settings, attn_implementation="eager")
        self.model.to(device=options.device, dtype=options.dtype).eval()
        self.tokenizer, self.config, self.vision = (
            self.model.tokenizer,
            self.model.config,
            self.model.get_vision_tower(),
        )
        self.config.image_processor = self.vision.image_processor  # where its functions look for it

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages, pixels = self._messages(turns, image)
        parts = self.module("data.base").preprocess_conversation(messages, self.tokenizer)
        return {"input_ids": parts["input_ids"], "labels": parts["labels"], "pixels": pixels}

    def ask(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages, pixels = self._messages(turns, image)
        tokenize = self.module("remote_code.tokenizer_utils").tokenize_conversation
        ids = tokenize(messages[:-1], self.tokenizer, add_generation_prompt=True)
        return {"input_ids": ids, "pixels": pixels}

    def pictures(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        device, dtype = self.options.device, self.options.dtype
        tiles = [tile.to(device, dtype) for item in encoded for tile in item["pixels"]]
        return {"media": {"image": tiles}, "media_config": defaultdict(dict)}

    def separators(self) -> list[str]:
        return list(self.tokenizer.stop_tokens)

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        counts = (batch["input_ids"] == self.tokenizer.media_token_ids["image"]).sum(dim=1).tolist()
        features = self.vision(torch.stack(batch["media"]["image"])).float()  # (N, P, d_vision)
        return torch.stack([tiles.mean(dim=(0, 1)) for tiles in features.split(counts)])

    def _messages(self, turns: Sequence[Turn], image: Image) -> tuple[list[dict[str, Any]], Tensor]:
        """Return the conversation as training has it, with the image's mark in front, and its tiles (N, 3, H, W)."""
        strip = self.module("data.dataset_impl.utils")._remove_media_tokens
        images = self.module("mm_utils")
        messages = [{**message, "value": strip(message["value"])} for message in llava_messages(turns)]
        messages[0]["value"] = [image, messages[0]["value"]]
        media = self.module("utils.media").extract_media(messages, self.config)
        if self.config.image_aspect_ratio == _TILED:
            pixels, words = images.dynamic_process_images_and_prompt(media["image"], messages[0]["value"], self.config)
            messages[0]["value"] = words
        else:
            pixels = images.process_images(media["image"], self.vision.image_processor, self.config)
        return messages, pixels
