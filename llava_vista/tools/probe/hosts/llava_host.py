"""LLaVA-1.5's own checkpoints: whole, and with a base also LoRA weights and the projector that stage 1 saves.

Conversations go through the functions that LLaVA's training uses, so the scored tokens are the trained ones. Its
``input_ids`` hold one placeholder for each image, which the model itself expands.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ....errors import ProbeError
from ...kit.host_source import package_folders
from ..conversation_samples import IMAGE_MARK, Turn
from .probe_host import LoadOptions, ProbeHost

#: Where the code comes from, for messages, and its top-level package.
REPOSITORY, PACKAGE = "haotian-liu/LLaVA", "llava"
#: ``model_type`` -> (module below the package's ``model.language_model``, class, template of its instruction tuning).
KINDS = {
    "llava_llama": ("llava_llama", "LlavaLlamaForCausalLM", "v1"),
    "llava": ("llava_llama", "LlavaLlamaForCausalLM", "v1"),  # its name before v1.2
    "llava_mistral": ("llava_mistral", "LlavaMistralForCausalLM", "mistral_instruct"),
}
#: Files of repositories that call their package `llava`, too: LLaVA-NeXT and VILA.
_OTHERS = ("model/language_model/llava_qwen.py", "model/language_model/llava_topdown_llama.py")
PLAIN = "plain"  # the template of stage 1
LORA_FILE, LORA_REST, PROJECTOR_FILE = "adapter_config.json", "non_lora_trainables.bin", "mm_projector.bin"
#: Values of ``image_aspect_ratio`` that its `process_images` knows; it takes others for "square".
_ASPECTS = ("square", "pad", "anyres")
_IGNORE = -100


class LlavaHost(ProbeHost):
    """LLaVA-1.5 (on PyPI as llava-torch)."""

    name = "llava"
    architectures = sorted({name for _, name, _ in KINDS.values()})

    def __init__(self, folder: Path, config: dict[str, Any], options: LoadOptions) -> None:
        from transformers import AutoTokenizer
        from transformers.utils import logging

        self.options = options
        file, class_name, tuned_with = KINDS[_kind(config)]
        templates, weights = _module("conversation").conv_templates, kind_of_weights(folder)
        self.template = options.template or (PLAIN if weights == "projector" else tuned_with)
        if self.template not in templates:
            raise ProbeError(f"{REPOSITORY} has no template {self.template!r}; it has {', '.join(sorted(templates))}.")
        self.notes = {"template": self.template}
        cls = getattr(_module(f"model.language_model.{file}"), class_name)
        how = {"torch_dtype": options.dtype, "attn_implementation": "eager"}  # which returns its weights
        with ExitStack() as stack:  # transformers warns of weights that a checkpoint lacks; they are checked here
            stack.callback(logging.set_verbosity, logging.get_verbosity())
            logging.set_verbosity_error()
            if weights == "whole":
                self.model = cls.from_pretrained(folder, **how)
            else:
                self.model = from_base(cls, folder, weights, options.base, how)
                self.notes |= {"base": str(options.base), "kind": weights}
            self.vision: Any = self.model.get_vision_tower()
            if not self.vision.is_loaded:
                self.vision.load_model()
                if state := saved_tower(folder):
                    self.vision.load_state_dict(state)
            self.vision.to(dtype=options.dtype)
            source = folder if weights == "whole" else options.base
            self.tokenizer = AutoTokenizer.from_pretrained(source, use_fast=False)
        if self.tokenizer.unk_token is not None:  # as training has it
            self.tokenizer.pad_token = self.tokenizer.unk_token
        self.model.to(options.device).eval()

    @classmethod
    def claims(cls, config: dict[str, Any]) -> bool:
        return _kind(config) in KINDS and bool(config.get("mm_vision_tower"))

    @classmethod
    def missing(cls, config: dict[str, Any]) -> str | None:
        aspect = config.get("image_aspect_ratio") or "square"
        if aspect not in _ASPECTS:
            return f"the checkpoint has image_aspect_ratio {aspect!r}, which {REPOSITORY} does not know"
        folders = package_folders(PACKAGE)
        if not folders:
            return f"the package `{PACKAGE}` of {REPOSITORY} is not importable"
        where = f"the package `{PACKAGE}` in {', '.join(map(str, folders))}"
        needed = f"model/language_model/{KINDS[_kind(config)][0]}.py"
        for name, wanted in ((needed, True), *((other, False) for other in _OTHERS)):
            if any((folder / name).is_file() for folder in folders) != wanted:
                return f"{where} has {'no ' if wanted else ''}{name}, so it is not that of {REPOSITORY}"
        return None

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        if self.template == PLAIN and len(turns) != 1:
            raise ProbeError("LLaVA's template 'plain' takes one question and one answer; choose another --template.")
        with self._conversation():
            parts = _module("train.train").preprocess([self._messages(turns)], self.tokenizer, has_image=True)
        return {"input_ids": parts["input_ids"][0], "labels": parts["labels"][0], "image": image}

    def collate(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        lengths = torch.tensor([len(item["input_ids"]) for item in encoded])
        ids = pad_sequence([item["input_ids"] for item in encoded], True, self.tokenizer.pad_token_id or 0)
        labels = pad_sequence([item["labels"] for item in encoded], True, _IGNORE)
        labels[:, 0] = _IGNORE  # nothing predicts the first token
        batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.arange(ids.shape[1]) < lengths[:, None]}
        limit, device = self.tokenizer.model_max_length, self.options.device
        return {**{name: value[:, :limit].to(device) for name, value in batch.items()}, **self._pictures(encoded)}

    def answer(self, turns: Sequence[Turn], image: Image, max_new_tokens: int) -> tuple[str, bool]:
        with self._conversation() as conversation:
            for part in self._messages(turns)[:-1]:
                conversation.append_message(conversation.roles[part["from"] == "gpt"], part["value"])
            conversation.append_message(conversation.roles[1], None)
            text = IMAGE_MARK if self.template == PLAIN else conversation.get_prompt()
            separators = [mark for mark in (conversation.sep, conversation.sep2) if mark]
        ids = _module("mm_utils").tokenizer_image_token(text, self.tokenizer, return_tensors="pt")
        ids, known = ids[None].to(self.options.device), self.tokenizer.get_vocab()
        # what ends an answer: the tokenizer's token, the model's, and separators of one token
        own = self.model.generation_config.eos_token_id
        found = [self.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
        ends = sorted({*found, *(known.get(mark.strip()) for mark in separators)} - {None})
        with torch.inference_mode():
            output = self.model.generate(
                ids.clone(), **self._pictures([{"image": image}]), attention_mask=torch.ones_like(ids).bool(),
                do_sample=False, max_new_tokens=max_new_tokens, pad_token_id=self.tokenizer.pad_token_id or 0,
                eos_token_id=ends, use_cache=True,
            )[0]  # fmt: skip
        # LLaVA's own merges first and returns what is new: up to transformers 4.37 with BOS in front.
        output = output[1:] if output[:1].tolist() == [self.tokenizer.bos_token_id] else output
        written: str = self.tokenizer.decode(output, skip_special_tokens=True).strip(" ")
        for mark in separators:
            if mark.strip("\n") == "" and mark in written:  # stage 1: a line is an answer
                return written.partition(mark)[0].strip(), False
        return written.strip(), len(output) > 0 and int(output[-1]) not in ends

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        # an image is (3, H, W), or with anyres several crops (C, 3, H, W)
        crops = [image if image.ndim == 4 else image[None] for image in batch["images"]]
        return torch.stack([self.vision(crop).float().mean(dim=(0, 1)) for crop in crops])

    def _pictures(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return the model's arguments for the images, on the device."""
        images = [item["image"] for item in encoded]
        pixels = _module("mm_utils").process_images(images, self.vision.image_processor, self.model.config)
        moved = [picture.to(self.options.device, self.options.dtype) for picture in pixels]
        sizes = [image.size for image in images]
        return {"images": torch.stack(moved) if isinstance(pixels, Tensor) else moved, "image_sizes": sizes}

    def _messages(self, turns: Sequence[Turn]) -> list[dict[str, str]]:
        """Return the turns in LLaVA's form, the image mark where training puts it. The template has to be set."""
        start_end = getattr(self.model.config, "mm_use_im_start_end", False)
        how = SimpleNamespace(is_multimodal=True, mm_use_im_start_end=start_end)
        said = [part for turn in turns for part in (("human", turn.question), ("gpt", turn.answer or ""))]
        messages = [{"from": speaker, "value": value} for speaker, value in said]
        return list(_module("train.train").preprocess_multimodal([messages], how)[0])

    @contextmanager
    def _conversation(self) -> Iterator[Any]:
        """Set the template, which these functions read from a global of a module. Yields a fresh conversation."""
        module = _module("conversation")
        before = module.default_conversation
        module.default_conversation = module.conv_templates[self.template]
        try:
            yield module.default_conversation.copy()
        finally:
            module.default_conversation = before


def _kind(config: dict[str, Any]) -> str:
    """Return the kind of the class that config.json names; the model type if it names another (stage 1)."""
    by_type, named = str(config.get("model_type")), config.get("architectures") or []
    by_name = [kind for kind, (_, class_name, _) in KINDS.items() if class_name in named]
    return by_type if by_type in by_name or not by_name else by_name[0]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    # what it raises under another version of transformers or of Python than its own
    except (ImportError, AttributeError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise ProbeError(
            f"{PACKAGE}.{name} of {REPOSITORY} cannot be imported here ({type(error).__name__}: {error}). Probe in the "
            "environment in which the checkpoint was trained."
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a whole model; none if there are only parts of it."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def kind_of_weights(folder: Path) -> str:
    """Return what the folder holds: "LoRA" weights, a "whole" model, or only a "projector"."""
    if (folder / LORA_FILE).is_file():
        return "LoRA"
    if weight_files(folder):
        return "whole"
    if (folder / PROJECTOR_FILE).is_file():
        return "projector"
    raise ProbeError(f"{folder} holds a configuration but no weights (*.safetensors or *.bin).")


def from_base(cls: Any, checkpoint: Path, weights: str, base: Path | None, how: dict[str, Any]) -> Any:
    """Return the base with the checkpoint's "LoRA" or "projector" added, as LLaVA's own loader does."""
    if base is None:
        kind = "LoRA weights" if weights == "LoRA" else f"a projector ({PROJECTOR_FILE}, as stage 1 saves it)"
        raise ProbeError(
            f"{checkpoint} holds {kind} only. Name the language model that it was trained on: --base FOLDER."
        )
    config = cls.config_class.from_pretrained(checkpoint)
    if getattr(config, "mm_use_im_start_end", False) or getattr(config, "mm_use_im_patch_token", False):
        raise ProbeError(
            f"{checkpoint} adds image tokens to the vocabulary of its base; merge it first with the host's own script "
            "(LLaVA: scripts/merge_lora_weights.py), and probe the merged folder."
        )
    # transformers 4.37 ignores the argument where it is given a configuration
    config._attn_implementation = how["attn_implementation"]
    model = cls.from_pretrained(base, config=config, **how)
    file = checkpoint / (LORA_REST if weights == "LoRA" else PROJECTOR_FILE)
    if not file.is_file():
        raise ProbeError(f"{checkpoint} holds LoRA weights, but no {file.name} (the projector) beside them.")
    added = torch.load(file, map_location="cpu", weights_only=True)
    added = {name.removeprefix("base_model.").replace("model.model.", "model.", 1): v for name, v in added.items()}
    unexpected = model.load_state_dict(added, strict=False).unexpected_keys
    if unexpected:
        raise ProbeError(f"{file} does not fit {base}: the model has no {unexpected[0]}.")
    if weights == "LoRA":
        from peft.peft_model import PeftModel

        model = PeftModel.from_pretrained(model, checkpoint).merge_and_unload()
    return model.to(how["torch_dtype"])


def saved_tower(checkpoint: Path) -> dict[str, Tensor]:
    """Return the state of the checkpoint's own vision tower; empty when it holds none, and LLaVA loads the original."""
    from safetensors import safe_open

    prefix = "model.vision_tower."
    state: dict[str, Tensor] = {}
    for file in weight_files(checkpoint):
        if file.suffix == ".bin":
            whole = torch.load(file, map_location="cpu", weights_only=True)
            state |= {key: value for key, value in whole.items() if key.startswith(prefix)}
        else:
            with safe_open(file, framework="pt") as tensors:
                keys = [key for key in tensors.keys() if key.startswith(prefix)]  # noqa: SIM118
                state |= {key: tensors.get_tensor(key) for key in keys}
    return {key.removeprefix(prefix): value for key, value in state.items()}
