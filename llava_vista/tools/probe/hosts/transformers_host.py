"""transformers' own vision-language classes: what AutoModelForImageTextToText and AutoProcessor load.

The checkpoint's chat template makes the prompt. An answer is what the template adds to the prompt that asks for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ....adapters import all_adapters
from ....errors import ProbeError
from ..conversation_samples import IMAGE_MARK, Turn
from .probe_host import LoadOptions, ProbeHost

_PACKAGE = "transformers.models."
#: Attributes under which the classes have their vision tower.
_TOWERS = ("vision_tower", "visual", "vision_model")
_IGNORE = -100


class TransformersHost(ProbeHost):
    """Every class of transformers that an adapter knows by name."""

    name = "transformers"

    def __init__(self, folder: Path, config: dict[str, Any], options: LoadOptions) -> None:
        import transformers

        loader: Any = getattr(transformers, "AutoModelForImageTextToText", None)
        if loader is None:
            raise ProbeError(f"{folder} needs transformers 4.46 or newer, found {transformers.__version__}.")
        if options.template or options.base:
            raise ProbeError(
                "--template and --base are for LLaVA's own checkpoints; one of transformers has its own chat template, "
                "and has to be whole (merge an adapter into its base first)."
            )
        self.options, self.notes = options, {"template": "the checkpoint's chat template"}
        self.processor: Any = transformers.AutoProcessor.from_pretrained(folder)
        if not getattr(self.processor, "chat_template", None):
            raise ProbeError(f"{folder} has no chat template, so the model cannot be asked. Save one with it.")
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "right"
        self.model = loader.from_pretrained(folder, attn_implementation="eager")
        self.model.to(device=options.device, dtype=options.dtype).eval()

    @classmethod
    def known(cls) -> Sequence[str]:
        names = {name for adapter in all_adapters() for name in adapter.classes if name.startswith(_PACKAGE)}
        return sorted(name.rpartition(".")[2] for name in names)

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages = _chat_messages(turns)
        text = self._text(messages)
        spans = []
        for answered in range(2, len(messages) + 1, 2):
            asked, whole = self._text(messages[: answered - 1], ask=True), self._text(messages[:answered])
            if not whole.startswith(asked) or not text.startswith(whole.rstrip()):
                raise ProbeError(
                    "the chat template writes an answered turn otherwise than it asks for it, so the answer cannot be "
                    f"located: {whole[-80:]!r} does not begin as {asked[-80:]!r}."
                )
            spans.append((len(asked), len(whole.rstrip())))
        tokens = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=self._adds_special(text))
        ids = torch.tensor(tokens["input_ids"])
        is_answer = [
            any(start < last and end > first and end > start for first, last in spans)
            for start, end in tokens["offset_mapping"]
        ]
        labels = torch.where(torch.tensor(is_answer), ids, _IGNORE)
        return {"input_ids": ids, "labels": labels, "text": text, "image": image}

    def collate(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self._process([item["text"] for item in encoded], [item["image"] for item in encoded])
        labels = torch.full_like(batch["input_ids"], _IGNORE)
        for row, item in enumerate(encoded):
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].cpu()
            labels[row, : len(ids)] = expand_labels(item["input_ids"], item["labels"], ids).to(labels.device)
        return {**batch, "labels": labels}

    def answer(self, turns: Sequence[Turn], image: Image, max_new_tokens: int) -> tuple[str, bool]:
        batch = self._process([self._text(_chat_messages(turns)[:-1], ask=True)], [image])
        with torch.inference_mode():
            output = self.model.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens)
        new = output[0, batch["input_ids"].shape[1] :]
        ends = self.model.generation_config.eos_token_id
        text: str = self.tokenizer.decode(new, skip_special_tokens=True).strip()
        return text, len(new) > 0 and int(new[-1]) not in (ends if isinstance(ends, list) else [ends])

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        towers = [module for name, module in self.model.named_modules() if name.rpartition(".")[2] in _TOWERS]
        read: Any = getattr(self.model, "get_image_features", None)
        if not towers or read is None:
            name = type(self.model).__name__
            raise ProbeError(f"{name} has no known vision tower: leave neighbours out (--measures).")
        outputs: list[Any] = []
        wanted = set(inspect.signature(read).parameters) - {"input_ids", "attention_mask", "labels"}
        # the outermost tower comes first
        with towers[0].register_forward_hook(lambda module, args, output: outputs.append(output)):
            read(**{name: value for name, value in batch.items() if name in wanted})
        output = outputs[-1] if outputs else None
        plain = output[0] if isinstance(output, tuple) else output
        return pool_by_image(getattr(output, "last_hidden_state", plain), batch, type(towers[0]).__name__)

    def _text(self, messages: Sequence[dict[str, Any]], ask: bool = False) -> str:
        return str(self.processor.apply_chat_template(list(messages), add_generation_prompt=ask, tokenize=False))

    def _adds_special(self, text: str) -> bool:
        """Return whether the tokenizer still has to add BOS: many templates write it themselves."""
        begin = self.tokenizer.bos_token
        return begin is None or not text.startswith(begin)

    def _process(self, texts: list[str], images: list[Image]) -> dict[str, Any]:
        how = {"return_tensors": "pt", "padding": True, "add_special_tokens": self._adds_special(texts[0])}
        batch = self.processor(text=texts, images=[[image] for image in images], **how).to(self.options.device)
        dtype = self.options.dtype
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}


def _chat_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return the turns as a chat, with the image in front of the question that has its mark."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        question = {"type": "text", "text": turn.question.replace(IMAGE_MARK, "").strip()}
        shown = [{"type": "image"}, question] if IMAGE_MARK in turn.question else [question]
        messages.append({"role": "user", "content": shown})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer or ""}]})
    return messages


def pool_by_image(output: Any, batch: dict[str, Any], tower: str) -> Tensor:
    """Return (B, d) float32: a tower's output averaged over crops and positions of each image.

    Args:
        output: (B or B * crops, P, d), or the patches of all images in one list, (N, d) or (1, N, d).
        batch: of the processor; its grids or image sizes say which patches are whose.
    """
    images, extent = len(batch["input_ids"]), batch.get("image_grid_thw", batch.get("image_sizes"))
    if isinstance(output, Tensor):
        if output.ndim == 3 and len(output) % images == 0:
            return output.float().reshape(images, -1, output.shape[-1]).mean(dim=1)
        patches = output.squeeze(0)
        if patches.ndim == 2 and extent is not None and len(extent) == images:
            areas = extent.prod(dim=1)
            sizes = areas * len(patches) // areas.sum()
            if int(sizes.sum()) == len(patches):
                return torch.stack([part.float().mean(dim=0) for part in patches.split(sizes.tolist())])
    raise ProbeError(f"{tower} returns no rows of its own for each image: leave neighbours out (--measures).")


def expand_labels(ids: Tensor, labels: Tensor, expanded: Tensor) -> Tensor:
    """Return labels (L,) for ids (L,) in which the one placeholder of ids (T,) has become the tokens of an image."""
    short = min(len(ids), len(expanded))
    tail = int((ids.flip(0)[:short] == expanded.flip(0)[:short]).int().cumprod(0).sum())
    head = max(0, len(ids) - tail - 1)  # up to the placeholder, or to what precedes it if the image ends with it
    if len(expanded) < len(ids) or not torch.equal(ids[:head], expanded[:head]):
        raise ProbeError("the processor changes more of the text than the place of one image; it cannot be followed.")
    between = expanded.new_full((len(expanded) - head - tail,), _IGNORE)
    return torch.cat([labels[:head], between, labels[len(labels) - tail :]])
