"""Tiny checkpoints that LLaVA-1.5 starts from: tokenizer and Llama in one folder, a CLIP tower in another.

They load with the same calls as Vicuna and openai/clip-vit-large-patch14-336.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch

from ..kit.untrained_projector import write_projector

SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TOKENIZER = {
    "tokenizer_class": "LlamaTokenizer", "legacy": True, "padding_side": "right", "model_max_length": 2048,
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
}  # fmt: skip
#: Words of LLaVA's v1 template, which the tokenizer must know.
TEMPLATE_TEXTS = (f"{SYSTEM_PROMPT} USER: question ASSISTANT: answer",)


class TinyPaths(NamedTuple):
    """Values of ``--model_name_or_path``, ``--vision_tower`` and stage 1's ``--pretrain_mm_mlp_adapter``."""

    language_model: Path
    vision_tower: Path
    projector: Path


def build_tiny_llava(
    directory: str | Path,
    *,
    texts: Iterable[str],
    seed: int = 0,
    vocab_size: int = 1024,
    hidden_size: int = 128,
    layers: int = 3,
    heads: int = 4,
    intermediate_size: int = 256,
    image_size: int = 96,
    patch_size: int = 32,
    vision_hidden_size: int = 128,
    vision_layers: int = 2,
) -> TinyPaths:
    """Write ``language_model/``, ``vision_tower/`` and ``projector.bin`` with random weights under ``directory``.

    Args:
        texts: Training texts of the tokenizer. Few texts give a smaller vocabulary.
        seed: Of the weights.
        vocab_size: Upper bound, the 256 byte pieces included.
    """
    paths = TinyPaths(*(Path(directory, name) for name in ("language_model", "vision_tower", "projector.bin")))
    length = write_tokenizer(paths.language_model, texts, vocab_size)
    llama = {"hidden_size": hidden_size, "layers": layers, "heads": heads, "intermediate_size": intermediate_size}
    tower = {"image_size": image_size, "patch_size": patch_size, "hidden_size": vision_hidden_size}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_llama(paths.language_model, vocab_size=length, **llama)
        write_vision_tower(paths.vision_tower, **tower, layers=vision_layers)
        write_projector(paths.projector, vision_hidden_size, hidden_size)
    return paths


def write_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int) -> int:
    """Train a SentencePiece model on ``texts``, save it as Llama's slow tokenizer, and return its length."""
    import sentencepiece
    from transformers import AutoTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for text in (*TEMPLATE_TEXTS, *texts) for line in text.split("\n") if line]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        # LLaVA pads with <unk>: in a text it would count as padding, and end as a "tokenization mismatch"
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return len(AutoTokenizer.from_pretrained(folder, use_fast=False))


def write_llama(
    folder: Path, *, vocab_size: int, hidden_size: int, layers: int, heads: int, intermediate_size: int
) -> None:
    """Write a Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=2048,
        initializer_range=hidden_size**-0.5,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_vision_tower(folder: Path, *, image_size: int, patch_size: int, hidden_size: int, layers: int) -> None:
    """Write a CLIP vision tower with random weights, and its image processor."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 2,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=image_size,
        patch_size=patch_size,
    )
    model = CLIPVisionModel(config)
    embeddings = getattr(model, "vision_model", model).embeddings  # transformers 5 has no inner model
    # A random projection keeps colour and shape. Position embeddings get the same scale: at CLIP's initial scale the
    # patches would hide them, and no layer could distinguish top left from bottom right.
    with torch.no_grad():
        embeddings.patch_embedding.weight.normal_(std=(3 * patch_size**2) ** -0.5)
        embeddings.position_embedding.weight.normal_(std=0.5)
    model.save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(folder)
