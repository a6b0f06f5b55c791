"""Tiny models of the real LLaVA-1.5 classes, and batches for them."""

from __future__ import annotations

import torch

IMAGE_TOKEN, IGNORE = -200, -100
VOCABULARY, PATCHES = 64, 16


def build(kind: str, tower: str, **options) -> torch.nn.Module:
    """A tiny LlavaLlama, LlavaMistral or LlavaMpt with its vision tower loaded."""
    from llava.model.language_model import llava_llama, llava_mistral, llava_mpt

    torch.manual_seed(1)
    common = {
        "vocab_size": VOCABULARY,
        "mm_vision_tower": tower,
        "mm_hidden_size": 16,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "use_cache": False,
        **options,
    }
    sizes = {
        "hidden_size": 40,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 512,
    }
    if kind == "llama":
        model = llava_llama.LlavaLlamaForCausalLM(llava_llama.LlavaConfig(**{**sizes, **common}))
    elif kind == "mistral":
        config = llava_mistral.LlavaMistralConfig(**{**sizes, "num_key_value_heads": 2, **common})
        model = llava_mistral.LlavaMistralForCausalLM(config)
    else:
        config = llava_mpt.LlavaMptConfig(d_model=40, n_heads=2, n_layers=2, max_seq_len=512, **common)
        config.hidden_size = config.d_model
        model = llava_mpt.LlavaMptForCausalLM(config)
    model.get_vision_tower().load_model()
    return model.train()


def make_batch(images_per_row=(1, 0, 2), length: int = 20, seed: int = 0) -> dict[str, torch.Tensor]:
    """A ragged batch as LLaVA's collator makes it; a text-only row carries one dummy image."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(images_per_row)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids, dtype=torch.bool)
    labels = ids.clone()
    for row, count in enumerate(images_per_row):
        mask[row, length - 2 * row :] = False
        ids[row, 1 : 1 + 2 * count : 2] = IMAGE_TOKEN
        labels[row, : 1 + 2 * count + 3] = IGNORE
    labels[~mask] = IGNORE
    number = sum(max(1, count) for count in images_per_row)
    images = torch.randn(number, 3, 16, 16, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "images": images}


def step(model: torch.nn.Module, batch: dict) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one training step."""
    model.zero_grad(set_to_none=True)
    loss = model(**batch).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.item(), gradients


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
