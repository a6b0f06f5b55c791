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
from typing import Any, ClassVar, NamedTuple

import torch
from PIL.Image import Image
from torch import Tensor

from ....errors import ProbeError
from ..conversation_samples import IMAGE_MARK, Turn, llava_messages
from .checkpoint_weights import from_base, kind_of_weights, prepare_experts, pretrained_options, quietly, saved_tower
from .probe_host import LoadOptions
from .repository_host import RepositoryHost

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
    def module(self) -> str:
        return f"model.language_model.{self.path.partition('.')[0]}"

    @property
    def class_name(self) -> str:
        return self.path.rpartition(".")[2]


class LlavaFork(RepositoryHost):
    """Whole checkpoints; with a base, also LoRA checkpoints and the projector that stage 1 saves."""

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

    def __init__(self, folder: Path, config: dict[str, Any], options: LoadOptions) -> None:
        self.options, kind = options, self.kinds[self.kind_name(config)]
        templates, weights = self.module("conversation").conv_templates, kind_of_weights(folder)
        wanted = options.template or (PLAIN if weights == "projector" else kind.template)
        self.template = self.choose_template(wanted, list(templates))
        cls = getattr(self.module(kind.module), kind.class_name)
        how = pretrained_options(options)
        with quietly():
            if weights == "whole":
                self.model = cls.from_pretrained(folder, **how)
            else:
                self.model = from_base(cls, folder, weights, options.base, how)
                self.notes |= {"base": str(options.base), "kind": weights}
            self.vision: Any = getattr(self.model, f"get_{self.tower}")()
            if not self.vision.is_loaded:
                self.vision.load_model()
                if state := saved_tower(folder, self.tower):
                    self.vision.load_state_dict(state)
            self.vision.to(dtype=options.dtype)
            self.tokenizer = self.load_tokenizer(folder if weights == "whole" else options.base, kind)
        for name in self.own_losses:
            setattr(self.model, name, False)
        self.model.to(options.device).eval()
        prepare_experts(self.model)
        self._forward = inspect.signature(self.model.forward).parameters

    @classmethod
    def known(cls) -> list[str]:
        return sorted({kind.class_name for kind in cls.kinds.values()})

    @classmethod
    def claims(cls, config: dict[str, Any]) -> bool:
        return cls.kind_name(config) in cls.kinds and bool(config.get(f"mm_{cls.tower}"))

    @classmethod
    def kind_name(cls, config: dict[str, Any]) -> str:
        """Return the kind of the class that config.json names; the model type if it names another (stage 1)."""
        by_type, named = str(config.get("model_type")), config.get("architectures") or []
        by_name = [name for name, kind in cls.kinds.items() if kind.class_name in named]
        return by_type if by_type in by_name or not by_name else by_name[0]

    @classmethod
    def needed(cls, config: dict[str, Any]) -> tuple[str, ...]:
        return (*cls.holds, f"{cls.kinds[cls.kind_name(config)].module.replace('.', '/')}.py")

    @classmethod
    def missing(cls, config: dict[str, Any]) -> str | None:
        aspect = config.get("image_aspect_ratio") or "square"
        if cls.aspects is not None and aspect not in cls.aspects:
            return f"the checkpoint has image_aspect_ratio {aspect!r}, which {cls.repository} does not know"
        return super().missing(config)

    def load_tokenizer(self, source: Path | None, kind: Kind) -> Any:
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

    def run(self, batch: dict[str, Any]) -> Any:
        if not self.merges_first:
            return super().run(batch)
        batch = self.own_copy(batch)
        merge = self.model.prepare_inputs_labels_for_multimodal
        wanted = {name: batch.get(name) for name in inspect.signature(merge).parameters}
        _, positions, mask, _, embeds, _ = merge(**wanted)
        return self.model.forward(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, return_dict=True)

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        if self.template == PLAIN and len(turns) != 1:
            raise ProbeError("LLaVA's template 'plain' takes one question and one answer; choose another --template.")
        with self._conversation():
            parts = self.module(self.training).preprocess([self._messages(turns)], self.tokenizer, has_image=True)
        return {"input_ids": parts["input_ids"][0], "labels": parts["labels"][0], "image": image}

    def ask(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        with self._conversation() as conversation:
            for part in self._messages(turns)[:-1]:
                conversation.append_message(conversation.roles[part["from"] == "gpt"], part["value"])
            conversation.append_message(conversation.roles[1], None)
            text = IMAGE_MARK if self.template == PLAIN else conversation.get_prompt()
        tokenize = self.module(self.utilities).tokenizer_image_token
        return {"input_ids": tokenize(text, self.tokenizer, return_tensors="pt"), "image": image}

    def pictures(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        images = [item["image"] for item in encoded]
        process = self.module(self.utilities).process_images
        pixels = process(images, self.vision.image_processor, self.model.config)
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
        if "images" not in inspect.signature(self.model.generate).parameters:
            return output[ids.shape[1] :]  # transformers' own returns the prompt, too
        # A host's own merges first and returns what is new: up to transformers 4.37 with BOS in front.
        begin = self.tokenizer.bos_token_id
        return output[1:] if begin is not None and output[:1].tolist() == [begin] else output

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        # an image is (3, H, W), or with anyres several crops (C, 3, H, W)
        crops = [image if image.ndim == 4 else image[None] for image in batch["images"]]
        return torch.stack([self.vision(crop).float().mean(dim=(0, 1)) for crop in crops])

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        """Return the turns in LLaVA's form, the image mark where training puts it. The template has to be set."""
        start_end = getattr(self.model.config, "mm_use_im_start_end", False)
        how = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=start_end, num_frames=8)  # frames of a video
        messages: list[dict[str, str]] = self.module(self.training).preprocess_multimodal([llava_messages(turns)], how)[
            0
        ]
        return messages

    @contextmanager
    def _conversation(self) -> Iterator[Any]:
        """Set the template, which these functions read from a global of a module. Yields a fresh conversation."""
        module = self.module("conversation")
        before = module.default_conversation
        module.default_conversation = module.conv_templates[self.template]
        try:
            yield module.default_conversation.copy()
        finally:
            module.default_conversation = before
