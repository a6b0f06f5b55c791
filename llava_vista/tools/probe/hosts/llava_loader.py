"""The loader that LLaVA-1.5 and the repositories that grew out of it share; ``llava_forks.py`` has what differs.

Conversations go through the functions that the host's training uses, so the scored tokens are the trained ones. No code
of a host is copied.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ....errors import ProbeError
from ..conversation_samples import IMAGE_MARK, Turn, llava_messages
from .checkpoint_weights import (
    check_weights,
    from_base,
    is_lora,
    is_partial,
    prepare_experts,
    pretrained_options,
    quietly,
    saved_tower,
)
from .placeholder_checkpoint import PlaceholderCheckpoint
from .probe_host import LoadOptions, RepositoryHost

if TYPE_CHECKING:
    from PIL.Image import Image

#: The template of stage 1, in every one of these repositories.
PLAIN = "plain"


class Kind(NamedTuple):
    """One model class of a host.

    Attributes:
        path: "module.Class" below the package's ``model.language_model``.
        template: the conversation template that its instruction tuning uses.
        fast: whether training takes transformers' fast tokenizer.
        unknown_token: that training adds, where the tokenizer has none.
        end_id: of the token that ends and pads, where training sets it.
    """

    path: str
    template: str
    fast: bool = False
    unknown_token: str | None = None
    end_id: int | None = None

    @property
    def file(self) -> str:
        return f"model/language_model/{self.path.partition('.')[0]}.py"

    @property
    def class_name(self) -> str:
        return self.path.rpartition(".")[2]


class LlavaFork(RepositoryHost):
    """A data sheet. Loads whole checkpoints; with a base, also LoRA checkpoints and the projector of stage 1."""

    #: Its classes, by the ``model_type`` of their configuration.
    kinds: ClassVar[Mapping[str, Kind]]
    #: Modules below the package: `preprocess` and `preprocess_multimodal`, and `process_images`.
    training: ClassVar[str] = "train.train"
    utilities: ClassVar[str] = "mm_utils"
    #: The vision tower's attribute, got by ``model.get_<tower>()`` and named ``mm_<tower>`` in config.json.
    tower: ClassVar[str] = "vision_tower"
    #: Values of ``image_aspect_ratio`` that its `process_images` knows; it takes others for "square". None: any.
    aspects: ClassVar[tuple[str, ...] | None] = ("square", "pad")
    #: Training keeps a padding token that the tokenizer has. Otherwise it pads with the unknown token.
    keeps_pad_token: ClassVar[bool] = False
    #: Merge first, then run the model on embeddings without labels, as `generate` does. Hosts whose forward computes a
    #: loss of its own from labels (CAL, VIRAL) need it in evaluation mode.
    merges_first: ClassVar[bool] = False
    #: Losses of the host's own that its forward computes with or without labels (VIRAL).
    own_losses: ClassVar[tuple[str, ...]] = ()

    def claims(self, config: dict[str, Any]) -> bool:
        return self.kind(config) is not None and bool(config.get(f"mm_{self.tower}"))

    def known(self) -> list[str]:
        return sorted({kind.class_name for kind in self.kinds.values()})

    def kind(self, config: dict[str, Any]) -> Kind | None:
        """Return the class that config.json names, or that of its model type if it names another (stage 1)."""
        named = [str(name) for name in config.get("architectures") or []]
        by_name = [kind for kind in self.kinds.values() if kind.class_name in named]
        by_type = self.kinds.get(str(config.get("model_type")))
        return by_type if by_type in by_name or not by_name else by_name[0]

    def needed(self, config: dict[str, Any]) -> tuple[str, ...]:
        kind = self.kind(config)
        return self.holds if kind is None else (*self.holds, kind.file)

    def missing(self, config: dict[str, Any]) -> str | None:
        aspect = config.get("image_aspect_ratio") or "square"
        if self.aspects is not None and aspect not in self.aspects:
            return f"the checkpoint has image_aspect_ratio {aspect!r}, which {self.repository} does not know"
        return super().missing(config)

    def load(self, checkpoint: Path, config: dict[str, Any], options: LoadOptions) -> LlavaCheckpoint:
        kind = self.kind(config)
        if kind is None:
            raise ProbeError(f"{checkpoint} is no checkpoint of {self.repository}.")
        partial = is_partial(checkpoint)
        wanted = options.template or (PLAIN if partial and not is_lora(checkpoint) else kind.template)
        notes = {"template": self.check_template(wanted, list(self.module("conversation").conv_templates))}
        check_weights(checkpoint, options.base)
        cls = getattr(self.module(f"model.language_model.{kind.path.partition('.')[0]}"), kind.class_name)
        how = pretrained_options(options)
        with quietly():
            if partial and options.base is not None:
                model, source = from_base(cls, checkpoint, options.base, how), options.base
                notes |= {"base": str(options.base), "kind": "LoRA" if is_lora(checkpoint) else "projector"}
            else:
                model, source = cls.from_pretrained(checkpoint, **how), checkpoint
            tower = getattr(model, f"get_{self.tower}")()
            if tower is None:
                raise ProbeError(f"{checkpoint} names no vision tower (mm_{self.tower} in config.json).")
            if not tower.is_loaded:
                tower.load_model()
                if weights := saved_tower(checkpoint, self.tower):
                    tower.load_state_dict(weights)
            tower.to(dtype=options.dtype)
            tokenizer = self.load_tokenizer(source, kind)
        for name in self.own_losses:
            if getattr(model, name, False):
                setattr(model, name, False)
        model.to(options.device).eval()
        prepare_experts(model)
        return LlavaCheckpoint(self, model, tokenizer, options, notes)

    def load_tokenizer(self, source: Path, kind: Kind) -> Any:
        """Return the tokenizer as training has it."""
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(source, use_fast=kind.fast)
        if kind.unknown_token is not None:
            tokenizer.add_special_tokens({"unk_token": kind.unknown_token})
        if kind.end_id is not None:
            tokenizer.eos_token_id = kind.end_id
            tokenizer.pad_token = tokenizer.eos_token
        elif tokenizer.unk_token is not None and not (self.keeps_pad_token and tokenizer.pad_token is not None):
            tokenizer.pad_token = tokenizer.unk_token
        return tokenizer


class LlavaCheckpoint(PlaceholderCheckpoint):
    """A loaded checkpoint of such a repository."""

    def __init__(
        self, host: LlavaFork, model: nn.Module, tokenizer: Any, options: LoadOptions, notes: dict[str, str]
    ) -> None:
        super().__init__(model, tokenizer, options, notes)
        self.host, self.template = host, notes["template"]
        self.tower: Any = getattr(model, f"get_{host.tower}")()
        self._forward = inspect.signature(model.forward).parameters

    def run(self, batch: dict[str, Any]) -> Any:
        if not self.host.merges_first:
            return super().run(batch)
        batch = self.own_copy(batch)
        merge: Any = self.model.prepare_inputs_labels_for_multimodal
        wanted = {name: batch.get(name) for name in inspect.signature(merge).parameters}
        _, positions, mask, _, embeds, _ = merge(**wanted)
        return self.model.forward(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, return_dict=True)

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        if self.template == PLAIN and len(turns) != 1:
            raise ProbeError("LLaVA's template 'plain' takes one question and one answer; choose another --template.")
        with self._conversation():
            parts = self._training().preprocess([self._messages(turns)], self.tokenizer, has_image=True)
        return {"input_ids": parts["input_ids"][0], "labels": parts["labels"][0], "image": image}

    def ask(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        with self._conversation() as conversation:
            for part in self._messages(turns)[:-1]:
                conversation.append_message(conversation.roles[part["from"] == "gpt"], part["value"])
            conversation.append_message(conversation.roles[1], None)
            text = IMAGE_MARK if self.template == PLAIN else conversation.get_prompt()
        tokenize = self.host.module(self.host.utilities).tokenizer_image_token
        return {"input_ids": tokenize(text, self.tokenizer, return_tensors="pt"), "image": image}

    def pictures(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        images = [item["image"] for item in encoded]
        process = self.host.module(self.host.utilities).process_images
        pixels = process(images, self.tower.image_processor, self.model.config)
        moved: Any = [picture.to(self.options.device, self.options.dtype) for picture in pixels]
        if isinstance(pixels, Tensor) and "modalities" not in self._forward:
            moved = torch.stack(moved)  # LLaVA-NeXT's training passes a list, whatever the shapes
        arguments = {
            "images": moved,
            "image_sizes": [image.size for image in images],
            "modalities": ["image"] * len(images),
        }
        return {name: value for name, value in arguments.items() if name in self._forward}

    def separators(self) -> list[str]:
        with self._conversation() as conversation:
            return [text for text in (conversation.sep, conversation.sep2) if text]

    def generate(self, ids: Tensor, pictures: dict[str, Any], **options: Any) -> Tensor:
        output = super().generate(ids.clone(), pictures, **options)
        if "images" not in inspect.signature(self.model.generate).parameters:  # type: ignore[arg-type]
            return output[ids.shape[1] :]  # transformers' own returns the prompt, too
        # A host's own merges first and returns what is new: up to transformers 4.37 with BOS in front.
        begin = self.tokenizer.bos_token_id
        return output[1:] if begin is not None and output[:1].tolist() == [begin] else output

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        images = batch["images"]
        if isinstance(images, Tensor) and images.ndim == 4:
            features: Tensor = self.tower(images)  # (B, P, d_vision)
            return features.float().mean(dim=1)
        # one image (3, H, W), or anyres: several crops (C, 3, H, W) an image
        crops = [image if image.ndim == 4 else image[None] for image in images]
        return torch.stack([self.tower(crop).float().mean(dim=(0, 1)) for crop in crops])

    def _training(self) -> Any:
        return self.host.module(self.host.training)

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        """Return the turns in LLaVA's form, the image mark where training puts it. The template has to be set."""
        start_end = getattr(self.model.config, "mm_use_im_start_end", False)
        how = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=start_end, num_frames=8)  # frames of a video
        messages: list[dict[str, str]] = self._training().preprocess_multimodal([llava_messages(turns)], how)[0]
        return messages

    @contextmanager
    def _conversation(self) -> Iterator[Any]:
        """Set the template, which these functions read from a global of a module. Yields a fresh conversation."""
        module = self.host.module("conversation")
        before = module.default_conversation
        module.default_conversation = module.conv_templates[self.template]
        try:
            yield module.default_conversation.copy()
        finally:
            module.default_conversation = before
