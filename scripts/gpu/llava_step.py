"""A full training step of a LLaVA-shaped model of transformers, with random weights, with and without VISTA."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_vista import VistaConfig, attach


class Size(NamedTuple):
    """A model and a batch of samples with one image and ``text`` tokens; the first of ``batches`` that fits is taken.

    The tower is frozen. ``lora`` trains adapters in the decoder and the whole projector; else all of both is trained.
    """

    width: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    vision: dict[str, int]
    text: int
    batches: tuple[int, ...] = (2,)
    dtype: torch.dtype = torch.float32
    lora: bool = False

    @property
    def image(self) -> int:
        """Number of image positions."""
        return int(self.vision["image_size"] // self.vision["patch_size"]) ** 2


TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SIZES = {
    "tiny": Size(16, 16, 2, 2, 64, {**TINY, "image_size": 16, "patch_size": 4}, 12),
    "tiny, LoRA": Size(
        16, 16, 2, 2, 64, {**TINY, "image_size": 16, "patch_size": 4}, 12, dtype=torch.bfloat16, lora=True
    ),
    "d=1024": Size(1024, 2752, 2, 8, 4096, {**TINY, "image_size": 96, "patch_size": 4}, 448, (1,)),
    "d=1024, shallow": Size(1024, 16, 1, 8, 64, {**TINY, "image_size": 96, "patch_size": 4}, 448, (1,)),
    "LLaVA-1.5-7B": Size(
        4096, 11008, 32, 32, 32064, {**LARGE, "image_size": 336, "patch_size": 14}, 1472, (16, 8, 4, 2, 1),
        torch.bfloat16, lora=True,
    ),
}  # fmt: skip
TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


def make_model(size: Size, device: str) -> torch.nn.Module:
    """Return the model in training mode, made on the device in its dtype; with LoRA also gradient checkpointing."""
    text = LlamaConfig(
        hidden_size=size.width, intermediate_size=size.inner, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, vocab_size=size.vocabulary, max_position_embeddings=4096, use_cache=False,
    )  # fmt: skip
    config = LlavaConfig(vision_config=CLIPVisionConfig(**size.vision), text_config=text, image_token_index=3)
    torch.set_default_dtype(size.dtype)
    try:
        with torch.device(device):
            model: Any = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("vision_tower" not in name)
    if size.lora:
        from peft import LoraConfig, get_peft_model

        whole = ["multi_modal_projector"]
        model = get_peft_model(model, LoraConfig(r=128, lora_alpha=256, target_modules=TARGETS, modules_to_save=whole))
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.to(device).train()


def make_batch(size: Size, batch: int, device: str) -> dict[str, torch.Tensor]:
    """Return samples with one image and no padding."""
    ids = torch.randint(4, size.vocabulary, (batch, size.image + size.text), device=device)
    ids[:, 4 : 4 + size.image] = 3
    shape = batch, 3, size.vision["image_size"], size.vision["image_size"]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(ids == 3, -100),
        "pixel_values": torch.randn(shape, device=device, dtype=size.dtype),
    }


class Trainee:
    """A model under training with the largest batch that fits, to which VISTA can be attached between steps."""

    def __init__(self, size: Size, device: str) -> None:
        self.model, self.size, self.device = make_model(size, device), size, device
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True if device == "cuda" else None)
        self.handle: Any = None
        for self.batch_size in size.batches:
            self.batch = make_batch(size, self.batch_size, device)
            try:
                self.vista(True)
                self.step()
                break
            except torch.OutOfMemoryError:
                if self.batch_size == size.batches[-1]:
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def vista(self, on: bool) -> None:
        """Attach or detach; then do one step, so that the first batch's checks are not in what is timed."""
        if on == (self.handle is not None):
            return
        if on:
            self.handle = attach(self.model, VistaConfig())
        else:
            self.handle.detach()
            self.handle = None
        self.step()

    def step(self) -> None:
        """Train one step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.model(**self.batch).loss.backward()
        self.optimizer.step()
