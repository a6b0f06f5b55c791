"""A full training step of a LLaVA-shaped model of transformers, with random weights, with and without VISTA."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_vista import VistaConfig, attach


class Size(NamedTuple):
    """A model and a batch of samples with one image and ``text`` tokens, without padding.

    The tower is frozen; ``lora`` trains adapters in the decoder and the whole projector, else all of both is trained.
    """

    width: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    vision: dict[str, int]
    text: int
    batches: tuple[int, ...]  # the first that fits is taken
    dtype: torch.dtype = torch.float32
    lora: bool = False

    @property
    def image(self) -> int:
        """Number of image positions."""
        return int(self.vision["image_size"] // self.vision["patch_size"]) ** 2


TINY_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGE_TOWER = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SIZES = {
    "tiny": Size(16, 16, 2, 2, 64, {**TINY_TOWER, "image_size": 16, "patch_size": 4}, 12, (2,)),
    "tiny, LoRA": Size(16, 16, 2, 2, 64, {**TINY_TOWER, "image_size": 16, "patch_size": 4}, 12, (2,), lora=True),
    "d=1024": Size(1024, 2752, 2, 8, 4096, {**TINY_TOWER, "image_size": 96, "patch_size": 4}, 448, (2,)),
    "LLaVA-1.5-7B": Size(
        4096, 11008, 32, 32, 32064, {**LARGE_TOWER, "image_size": 336, "patch_size": 14}, 1472, (16, 8, 4, 2, 1),
        torch.bfloat16, lora=True,
    ),
}  # fmt: skip


def make_model(size: Size, device: str) -> torch.nn.Module:
    """Return the model in training mode, made on the device in its dtype."""
    text = LlamaConfig(
        hidden_size=size.width, intermediate_size=size.inner, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, vocab_size=size.vocabulary,
        max_position_embeddings=4096, use_cache=False,
    )  # fmt: skip
    config = LlavaConfig(vision_config=CLIPVisionConfig(**size.vision), text_config=text, image_token_index=3)
    config.pad_token_id = 0
    torch.manual_seed(0)
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

        targets = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
        options = LoraConfig(r=128, lora_alpha=256, target_modules=targets, modules_to_save=["multi_modal_projector"])
        model = get_peft_model(model, options)
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.to(device).train()


def make_batch(size: Size, batch: int, device: str) -> dict[str, torch.Tensor]:
    """Return one image per sample, no padding."""
    # Up to transformers 4.48 the class replaces one placeholder by an image's rows, since then there is one for each.
    expands = hasattr(LlavaForConditionalGeneration, "_merge_input_ids_with_image_features")
    ids = torch.randint(4, size.vocabulary, (batch, size.text), device=device)
    image = torch.full((batch, 1 if expands else size.image), 3, device=device)
    ids = torch.cat([ids[:, :4], image, ids[:, 4:]], dim=1)
    side = size.vision["image_size"]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(ids == 3, -100),
        "pixel_values": torch.randn(batch, 3, side, side, device=device, dtype=size.dtype),
    }


class Trainee:
    """A model under training, to which VISTA can be attached between steps."""

    def __init__(self, size: Size, device: str) -> None:
        self.model, self.device = make_model(size, device), device
        self.size, self.batch_size = size, 0
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True if device == "cuda" else None)
        self.handle: Any = None

    def fit_batch(self) -> None:
        """Take the largest batch whose step fits the memory.

        Raises:
            torch.OutOfMemoryError: none fits.
        """
        for number, batch in enumerate(self.size.batches, start=1):
            self.batch, self.batch_size = make_batch(self.size, batch, self.device), batch
            try:
                self.vista(True)
                return
            except torch.OutOfMemoryError:
                if number == len(self.size.batches):
                    raise
                self.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def vista(self, on: bool) -> None:
        """Attach or detach, and do one step, so that the first batch's checks are not in what is timed."""
        if on != (self.handle is not None):
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
