"""VILA and NVILA: a model around a language model, in three folders. Its package is named ``llava`` like LLaVA's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ....errors import ProbeError
from ..conversation_samples import Turn, llava_messages
from .checkpoint_weights import is_lora, quietly
from .placeholder_checkpoint import PlaceholderCheckpoint
from .probe_host import LoadOptions, RepositoryHost, register_host

if TYPE_CHECKING:
    from PIL.Image import Image

_PARTS = ("llm", "vision_tower", "mm_projector")
#: Ways to tile an image. "dynamic_s2" combines features of several scales by a grid that the batch would need.
_TILED, _REFUSED = "dynamic", "dynamic_s2"


@register_host("vila")
class VilaHost(RepositoryHost):
    """Whole checkpoints. PS3 models (LlavaTopDownLlamaModel) choose patches by the prompt and are not loaded."""

    architectures = ("LlavaLlamaModel",)
    repository = "NVlabs/VILA"
    package = "llava"
    holds = ("model/language_model/llava_topdown_llama.py",)

    def load(self, checkpoint: Path, config: dict[str, Any], options: LoadOptions) -> VilaCheckpoint:
        if options.template or options.base:
            raise ProbeError("--template and --base are not for VILA: its checkpoints have their own chat template.")
        if is_lora(checkpoint) or not all((checkpoint / name).is_dir() for name in _PARTS):
            raise ProbeError(
                f"{checkpoint} is no whole VILA checkpoint (folders {', '.join(_PARTS)}). Merge LoRA weights into "
                "their base first, with VILA's own llava/utils/merge_lora_weights_and_save_hf_model.py."
            )
        if config.get("image_aspect_ratio") == _REFUSED:
            raise ProbeError(f"{checkpoint}: image_aspect_ratio {_REFUSED!r} is not supported by the probe.")
        host = self.module("model.language_model.llava_llama")
        settings = host.LlavaLlamaConfig.from_pretrained(checkpoint)
        settings.resume_path = settings._name_or_path = str(checkpoint)
        settings.model_dtype = str(options.dtype)
        with quietly():
            model = host.LlavaLlamaModel(config=settings, attn_implementation="eager")
        model.to(device=options.device, dtype=options.dtype).eval()
        return VilaCheckpoint(self, model, options)


class VilaCheckpoint(PlaceholderCheckpoint):
    """A loaded checkpoint. Its placeholder is a token of its tokenizer, not a negative number."""

    def __init__(self, host: VilaHost, model: Any, options: LoadOptions) -> None:
        super().__init__(model, model.tokenizer, options, {"template": "the checkpoint's chat template"})
        self.host, self.config = host, model.config
        self.tower: Any = model.get_vision_tower()
        self.config.image_processor = self.tower.image_processor  # where its functions look for it

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages, pixels = self._messages(turns, image)
        parts = self.host.module("data.base").preprocess_conversation(messages, self.tokenizer)
        return {"input_ids": parts["input_ids"], "labels": parts["labels"], "pixels": pixels}

    def ask(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages, pixels = self._messages(turns, image)
        tokenize = self.host.module("remote_code.tokenizer_utils").tokenize_conversation
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
        features = self.tower(torch.stack(batch["media"]["image"])).float()  # (N, P, d_vision)
        return torch.stack([tiles.mean(dim=(0, 1)) for tiles in features.split(counts)])

    def _messages(self, turns: Sequence[Turn], image: Image) -> tuple[list[dict[str, Any]], Tensor]:
        """Return the conversation as training has it, with the image's mark in front, and its tiles (N, 3, H, W)."""
        strip = self.host.module("data.dataset_impl.utils")._remove_media_tokens
        images = self.host.module("mm_utils")
        messages = [{**message, "value": strip(message["value"])} for message in llava_messages(turns)]
        messages[0]["value"] = [image, messages[0]["value"]]
        media = self.host.module("utils.media").extract_media(messages, self.config)
        if self.config.image_aspect_ratio == _TILED:
            pixels, words = images.dynamic_process_images_and_prompt(media["image"], messages[0]["value"], self.config)
            messages[0]["value"] = words
        else:
            pixels = images.process_images(media["image"], self.tower.image_processor, self.config)
        return messages, pixels
