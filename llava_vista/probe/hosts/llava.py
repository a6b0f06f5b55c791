"""LLaVA-1.5 (haotian-liu/LLaVA; on PyPI as llava-torch): its own classes, templates, tokenization and image handling.

Conversations go through the functions that its training uses, so the tokens scored are those that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..data import Turn
from ..errors import ProbeError
from .base import LoadOptions, ProbeHost, Subject, register_host

if TYPE_CHECKING:
    from PIL.Image import Image

LORA_FILE, LORA_REST, PROJECTOR_FILE = "adapter_config.json", "non_lora_trainables.bin", "mm_projector.bin"
#: What stage 1 and stage 2 of LLaVA-1.5 are trained with.
PLAIN, CHAT = "plain", "v1"


@register_host("llava")
class LlavaHost(ProbeHost):
    """Whole checkpoints; with a base, also LoRA checkpoints and the projector that stage 1 saves."""

    architectures = ("LlavaLlamaForCausalLM", "LlavaMistralForCausalLM")
    model_types = ("llava_llama", "llava_mistral")

    def load(self, checkpoint: Path, config: dict[str, Any], options: LoadOptions) -> LlavaSubject:
        from llava.conversation import conv_templates
        from llava.model.language_model import llava_llama, llava_mistral
        from transformers.utils import logging

        mistral = "mistral" in str(config.get("model_type")) or "LlavaMistral" in str(config.get("architectures"))
        cls: Any = llava_mistral.LlavaMistralForCausalLM if mistral else llava_llama.LlavaLlamaForCausalLM
        lora, projector = (checkpoint / LORA_FILE).is_file(), (checkpoint / PROJECTOR_FILE).is_file()
        partial = lora or (projector and not _has_weights(checkpoint))
        template = options.template or (PLAIN if partial and not lora else CHAT)
        if template not in conv_templates:
            raise ProbeError(f"LLaVA has no template {template!r}; it has {', '.join(sorted(conv_templates))}.")
        if not partial and not _has_weights(checkpoint):
            raise ProbeError(f"{checkpoint} holds a configuration but no weights (*.safetensors or *.bin).")
        if partial and options.base is None:
            kind = "LoRA weights" if lora else f"a projector ({PROJECTOR_FILE}, as stage 1 saves it)"
            raise ProbeError(
                f"{checkpoint} holds {kind} only. Name the language model that it was trained on: --base FOLDER."
            )
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # which weights a checkpoint does not hold is handled here
        try:
            how = {"torch_dtype": options.dtype, "attn_implementation": "eager"}
            if not partial or options.base is None:
                model, source, notes = cls.from_pretrained(checkpoint, **how), checkpoint, {}
            else:
                source, notes = options.base, {"base": str(options.base), "kind": "LoRA" if lora else "projector"}
                model = _from_base(cls, checkpoint, source, how, lora)
            tower = model.get_vision_tower()
            if tower is None:
                raise ProbeError(f"{checkpoint} names no vision tower (mm_vision_tower in config.json).")
            if not tower.is_loaded:
                tower.load_model()
            tower.to(dtype=options.dtype)
            tokenizer = _tokenizer(source)
        finally:
            logging.set_verbosity(verbosity)
        model.to(options.device).eval()
        return LlavaSubject(model, tokenizer, template, options, {**notes, "template": template})


class LlavaSubject(Subject):
    """A loaded LLaVA-1.5."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, template: str, options: LoadOptions, notes: dict[str, str]
    ) -> None:
        self.model, self.tokenizer, self.notes = model, tokenizer, notes
        self.template, self.options = template, options
        self.tower: Any = model.get_vision_tower()  # type: ignore[operator]

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        from llava.train.train import preprocess

        if self.template == PLAIN and len(turns) != 1:
            raise ProbeError("LLaVA's template 'plain' takes one question and one answer; choose another --template.")
        with _default_conversation(self.template):
            parts = preprocess([self._parts(turns)], self.tokenizer, has_image=True)
        return {
            "input_ids": parts["input_ids"][0],
            "labels": parts["labels"][0],
            "image": image,
        }

    def collate(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        from llava.constants import IGNORE_INDEX
        from torch.nn.utils.rnn import pad_sequence

        lengths = torch.tensor([len(item["input_ids"]) for item in encoded])
        ids = pad_sequence([item["input_ids"] for item in encoded], True, self.tokenizer.pad_token_id)
        labels = pad_sequence([item["labels"] for item in encoded], True, IGNORE_INDEX)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        limit, device = self.tokenizer.model_max_length, self.options.device
        return {
            "input_ids": ids[:, :limit].to(device),
            "labels": labels[:, :limit].to(device),
            "attention_mask": mask[:, :limit].to(device),
            **self._pictures([item["image"] for item in encoded]),
        }

    def answer(self, turns: Sequence[Turn], image: Image, max_new_tokens: int) -> tuple[str, bool]:
        from llava.mm_utils import tokenizer_image_token

        with _default_conversation(self.template) as conversation:
            for part in self._parts(turns)[:-1]:
                role = conversation.roles[part["from"] == "gpt"]
                conversation.append_message(role, part["value"])
            conversation.append_message(conversation.roles[1], None)
            prompt = "<image>" if self.template == PLAIN else conversation.get_prompt()
            stop = conversation.sep if self.template == PLAIN else None
        ids = tokenizer_image_token(prompt, self.tokenizer, return_tensors="pt")[None].to(self.options.device)
        with torch.inference_mode():
            output = self.model.generate(  # type: ignore[operator]
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.tokenizer.pad_token_id,
                use_cache=True,
                **self._pictures([image]),
            )[0]
        text: str = self.tokenizer.decode(output, skip_special_tokens=True).strip()
        if stop and stop in text:
            return text.partition(stop)[0], False
        return text, int(output[-1]) != self.tokenizer.eos_token_id

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        images = batch["images"]
        if isinstance(images, Tensor) and images.ndim == 4:
            features: Tensor = self.tower(images)  # (B, P, d_vision)
            return features.float().mean(dim=1)
        # anyres: several crops (C, 3, H, W) an image
        return torch.stack([self.tower(crops).float().mean(dim=(0, 1)) for crops in images])

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _parts(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        """The turns in LLaVA's form, the image mark where its training puts it. Needs the template to be set."""
        from llava.train.train import preprocess_multimodal

        parts = [
            part
            for turn in turns
            for part in ({"from": "human", "value": turn.question}, {"from": "gpt", "value": turn.answer or ""})
        ]
        start_end = getattr(self.model.config, "mm_use_im_start_end", False)
        how = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=start_end)
        done: list[dict[str, str]] = preprocess_multimodal([parts], how)[0]
        return done

    def _pictures(self, images: Sequence[Image]) -> dict[str, Any]:
        from llava.mm_utils import process_images

        pixels = process_images(list(images), self.tower.image_processor, self.model.config)
        device, dtype = self.options.device, self.options.dtype
        if isinstance(pixels, Tensor):
            moved: Any = pixels.to(device, dtype)
        else:
            moved = [picture.to(device, dtype) for picture in pixels]
        return {"images": moved, "image_sizes": [image.size for image in images]}


@contextmanager
def _default_conversation(template: str) -> Iterator[Any]:
    """LLaVA's functions read the template from a global of its module: set it for a while. Yields a fresh one."""
    from llava import conversation

    before = conversation.default_conversation
    conversation.default_conversation = conversation.conv_templates[template]
    try:
        yield conversation.default_conversation.copy()
    finally:
        conversation.default_conversation = before


def _has_weights(checkpoint: Path) -> bool:
    return any(any(checkpoint.glob(pattern)) for pattern in ("model*.safetensors", "pytorch_model*.bin"))


def _tokenizer(source: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, use_fast=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token  # as LLaVA's training does
    return tokenizer


def _from_base(cls: Any, checkpoint: Path, base: Path, how: dict[str, Any], lora: bool) -> Any:
    """The base with what the checkpoint adds to it, as LLaVA's own loader puts them together.

    Raises:
        ProbeError: the two do not fit.
    """
    config = cls.config_class.from_pretrained(checkpoint)
    if getattr(config, "mm_use_im_start_end", False) or getattr(config, "mm_use_im_patch_token", False):
        raise ProbeError(
            f"{checkpoint} adds image tokens to the vocabulary of its base; merge it first with LLaVA's own "
            "scripts/merge_lora_weights.py, and probe what that writes."
        )
    model = cls.from_pretrained(base, config=config, **how)
    file = checkpoint / (LORA_REST if lora else PROJECTOR_FILE)
    if not file.is_file():
        raise ProbeError(f"{checkpoint} holds LoRA weights, but no {file.name} (the projector) beside them.")
    added = torch.load(file, map_location="cpu")
    added = {name.removeprefix("base_model.").replace("model.model.", "model.", 1): v for name, v in added.items()}
    unexpected = model.load_state_dict(added, strict=False).unexpected_keys
    if unexpected:
        raise ProbeError(f"{file} does not fit {base}: it holds {unexpected[0]}, which the model has not.")
    if lora:
        from peft.peft_model import PeftModel

        model = PeftModel.from_pretrained(model, checkpoint).merge_and_unload()
    return model.to(how["torch_dtype"])
