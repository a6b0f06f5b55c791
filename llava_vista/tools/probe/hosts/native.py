"""transformers' own vision-language classes: whatever AutoModelForImageTextToText and AutoProcessor load.

The checkpoint's chat template makes the prompt. Which tokens are answer is read off the text: an answer is what the
template adds to the prompt that asks for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ....adapters import all_adapters
from ....errors import ProbeError
from ..data import IMAGE_MARK, Turn
from .base import LoadOptions, ProbeHost, Subject, register_host

if TYPE_CHECKING:
    from PIL.Image import Image

_PACKAGE = "transformers.models."
#: How the classes call their vision tower.
_TOWERS = ("vision_tower", "visual", "vision_model")
_IGNORE = -100


@register_host("transformers")
class NativeHost(ProbeHost):
    """Every class of transformers that an adapter knows by name."""

    def claims(self, config: dict[str, Any]) -> bool:
        return bool(_known_classes() & set(config.get("architectures") or []))

    def known(self) -> list[str]:
        return sorted(_known_classes())

    def load(self, checkpoint: Path, config: dict[str, Any], options: LoadOptions) -> NativeSubject:
        import transformers

        loader: Any = getattr(transformers, "AutoModelForImageTextToText", None)
        if loader is None:
            raise ProbeError(
                f"{checkpoint} needs a newer transformers: AutoModelForImageTextToText is missing in "
                f"{transformers.__version__} (it came with 4.46)."
            )
        if options.template or options.base:
            raise ProbeError(
                "--template and --base are for LLaVA's own checkpoints; one of transformers brings its chat template, "
                "and has to be whole (merge an adapter into its base first)."
            )
        processor: Any = transformers.AutoProcessor.from_pretrained(checkpoint)
        if not getattr(processor, "chat_template", None):
            raise ProbeError(f"{checkpoint} has no chat template, so there is no telling how to ask it.")
        model = loader.from_pretrained(checkpoint, attn_implementation="eager")
        return NativeSubject(model.to(device=options.device, dtype=options.dtype).eval(), processor, options)


def _known_classes() -> set[str]:
    """Bare names of the classes of transformers that adapters know."""
    names = [name for adapter in all_adapters() for name in adapter.classes if name.startswith(_PACKAGE)]
    return {name.rpartition(".")[2] for name in names}


class NativeSubject(Subject):
    """A loaded model of transformers' own."""

    def __init__(self, model: nn.Module, processor: Any, options: LoadOptions) -> None:
        self.model, self.processor, self.options = model, processor, options
        self.tokenizer: Any = processor.tokenizer
        self.tokenizer.padding_side = "right"
        self.notes = {"template": "the checkpoint's chat template"}

    def encode(self, turns: Sequence[Turn], image: Image) -> dict[str, Any]:
        messages = _messages(turns)
        text = self._text(messages)
        spans = []
        for number in range(1, len(turns) + 1):
            start = self._text(messages[: 2 * number - 1], ask=True)
            end = self._text(messages[: 2 * number])
            if not end.startswith(start) or not text.startswith(end.rstrip()):
                raise ProbeError(
                    "the chat template writes an answered turn otherwise than it asks for it, so the answer cannot be "
                    f"told from the rest: {end[-80:]!r} does not begin as {start[-80:]!r}."
                )
            spans.append((len(start), len(end.rstrip())))
        found = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=self._adds_special(text))
        ids = torch.tensor(found["input_ids"])
        answer = [
            any(start < last and end > first and end > start for first, last in spans)
            for start, end in found["offset_mapping"]
        ]
        labels = torch.where(torch.tensor(answer), ids, _IGNORE)
        return {"input_ids": ids, "labels": labels, "text": text, "image": image}

    def collate(self, encoded: Sequence[dict[str, Any]]) -> dict[str, Any]:
        batch = self._process([item["text"] for item in encoded], [item["image"] for item in encoded])
        labels = torch.full_like(batch["input_ids"], _IGNORE)
        for row, item in enumerate(encoded):
            ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].cpu()
            expanded = expand_labels(item["input_ids"], item["labels"], ids)
            labels[row, : len(expanded)] = expanded.to(labels.device)
        return {**batch, "labels": labels}

    def answer(self, turns: Sequence[Turn], image: Image, max_new_tokens: int) -> tuple[str, bool]:
        batch = self._process([self._text(_messages(turns)[:-1], ask=True)], [image])
        with torch.inference_mode():
            output = self.model.generate(**batch, do_sample=False, max_new_tokens=max_new_tokens)  # type: ignore[operator]
        new = output[0, batch["input_ids"].shape[1] :]
        text: str = self.tokenizer.decode(new, skip_special_tokens=True).strip()
        ends = self.model.generation_config.eos_token_id  # type: ignore[union-attr]
        return text, len(new) > 0 and int(new[-1]) not in (ends if isinstance(ends, list) else [ends])

    def tower_features(self, batch: dict[str, Any]) -> Tensor:
        towers = [
            module for name, module in self.model.named_modules() if name.rpartition(".")[2] in _TOWERS
        ]  # the outermost comes first
        read: Any = getattr(self.model, "get_image_features", None)
        if not towers or read is None:
            raise ProbeError(
                f"{type(self.model).__name__}: no vision tower was found; leave neighbours out (--measures)."
            )
        seen: list[Any] = []
        hook = towers[0].register_forward_hook(lambda module, args, output: seen.append(output))
        wanted = inspect.signature(read).parameters
        try:
            read(**{name: value for name, value in batch.items() if name in wanted and name not in _TEXT_ARGUMENTS})
        finally:
            hook.remove()
        output = getattr(seen[-1], "last_hidden_state", None) if seen else None
        if output is None and seen:
            output = seen[-1][0] if isinstance(seen[-1], tuple) else seen[-1]
        found = pool_by_image(output, batch) if isinstance(output, Tensor) else None
        if found is None:
            raise ProbeError(
                f"{type(towers[0]).__name__} does not give each image rows of its own, so its features cannot be told "
                "apart; leave neighbours out (--measures)."
            )
        return found

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _text(self, messages: Sequence[dict[str, Any]], ask: bool = False) -> str:
        text: str = self.processor.apply_chat_template(list(messages), add_generation_prompt=ask, tokenize=False)
        return text

    def _adds_special(self, text: str) -> bool:
        """Whether the tokenizer is still to add BOS: many templates write it themselves."""
        begin = self.tokenizer.bos_token
        return begin is None or not text.startswith(begin)

    def _process(self, texts: list[str], images: list[Image]) -> dict[str, Any]:
        batch = self.processor(
            text=texts,
            images=[[image] for image in images],
            return_tensors="pt",
            padding=True,
            add_special_tokens=self._adds_special(texts[0]),
        )
        batch = batch.to(self.options.device)
        floats = {name: value.to(self.options.dtype) for name, value in batch.items() if value.is_floating_point()}
        return {**batch, **floats}


_TEXT_ARGUMENTS = frozenset({"input_ids", "attention_mask", "labels"})


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The turns as a chat, with the image where its mark stands."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        content: list[dict[str, str]] = []
        if IMAGE_MARK in turn.question:
            content.append({"type": "image"})
        content.append({"type": "text", "text": turn.question.replace(IMAGE_MARK, "").strip()})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer or ""}]})
    return messages


def pool_by_image(output: Tensor, batch: dict[str, Any]) -> Tensor | None:
    """What a tower returned for B images of one sample each, averaged over the crops and positions of each image.

    Args:
        output: (B or B * crops, P, d), or the patches of all images in one list, (N, d) or (1, N, d).
        batch: what the processor made; its grids or image sizes tell which patches are whose.

    Returns:
        (B, d) float32; None where it cannot be told.
    """
    images = len(batch["input_ids"])
    if output.ndim == 3 and len(output) % images == 0:
        return output.float().reshape(images, -1, output.shape[-1]).mean(dim=1)
    patches = output[0] if output.ndim == 3 and len(output) == 1 else output
    extent = batch.get("image_grid_thw", batch.get("image_sizes"))
    if patches.ndim != 2 or extent is None or len(extent) != images:
        return None
    areas = extent.prod(dim=1)
    sizes = areas * len(patches) // areas.sum()
    if int(sizes.sum()) != len(patches):
        return None
    return torch.stack([part.float().mean(dim=0) for part in patches.split(sizes.tolist())])


def expand_labels(ids: Tensor, labels: Tensor, expanded: Tensor) -> Tensor:
    """Labels for a sequence in which one placeholder has become the tokens of an image.

    Args:
        ids, labels: (T,) with the placeholder.
        expanded: (L,) with what the processor put in its place.

    Returns:
        (L,) labels; negative at all that was put in.

    Raises:
        ProbeError: the two differ by more than one stretch.
    """
    short = min(len(ids), len(expanded))
    same = (ids.flip(0)[:short] == expanded.flip(0)[:short]).int()
    tail = int(same.cumprod(0).sum())
    head = len(ids) - tail  # the placeholder, or what stands before it where the image ends with the placeholder
    if len(expanded) < len(ids) or not torch.equal(ids[: max(0, head - 1)], expanded[: max(0, head - 1)]):
        raise ProbeError("the processor changes more of the text than the place of one image; it cannot be followed.")
    found = torch.full_like(expanded, _IGNORE)
    found[: max(0, head - 1)] = labels[: max(0, head - 1)]
    found[len(expanded) - tail :] = labels[len(labels) - tail :]
    return found
