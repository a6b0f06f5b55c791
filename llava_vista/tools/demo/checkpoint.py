"""The parts that LLaVA-1.5 starts from, tiny but real: tokenizer and Llama in one folder, a CLIP tower in another.

What is written loads with the same calls as Vicuna and openai/clip-vit-large-patch14-336 do.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

SYSTEM_PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
#: What LLaVA's v1 template puts around every conversation; the tokenizer has to know these words.
TEMPLATE_TEXTS = (f"{SYSTEM_PROMPT} USER: question ASSISTANT: answer",)


@dataclass(frozen=True)
class TinyPaths:
    """Where `build_tiny_llava` put what ``--model_name_or_path``, ``--vision_tower`` and stage 1 start from."""

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
    """Write tokenizer, Llama and CLIP tower with random weights under ``directory``; takes a few seconds.

    Args:
        directory: gets ``language_model/``, ``vision_tower/`` and ``projector.bin``.
        texts: what the tokenizer learns its pieces from; the vocabulary shrinks if they hold too little.
        seed: of the weights.
        vocab_size: upper bound, the 256 byte pieces included.

    Returns:
        the two folders and the file.
    """
    directory = Path(directory)
    paths = TinyPaths(directory / "language_model", directory / "vision_tower", directory / "projector.bin")
    tokenizer_length = write_tokenizer(paths.language_model, texts, vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_llama(
            paths.language_model,
            vocab_size=tokenizer_length,
            hidden_size=hidden_size,
            layers=layers,
            heads=heads,
            intermediate_size=intermediate_size,
        )
        write_vision_tower(
            paths.vision_tower,
            image_size=image_size,
            patch_size=patch_size,
            hidden_size=vision_hidden_size,
            layers=vision_layers,
        )
        write_projector(paths.projector, vision_hidden_size, hidden_size)
    return paths


def write_tokenizer(folder: Path, texts: Iterable[str], vocab_size: int) -> int:
    """Train a SentencePiece model on ``texts`` and save it as Llama's slow tokenizer.

    Byte fallback is what keeps <unk> out of every text. LLaVA pads with <unk>, so one in a text would be counted as
    padding, and LLaVA would drop the sample's labels as a "tokenization mismatch".

    Returns:
        the number of pieces.
    """
    import sentencepiece
    from transformers import LlamaTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for text in (*TEMPLATE_TEXTS, *texts) for line in text.split("\n") if line]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    vocab_file = folder / "tokenizer.model"
    vocab_file.write_bytes(model.getvalue())
    tokenizer = LlamaTokenizer(str(vocab_file), legacy=True, padding_side="right", model_max_length=2048)
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


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
    """Write a CLIP vision tower with random weights, and its image processor.

    A random projection keeps what colour and shape a patch has. At CLIP's initial scale the position embeddings would
    drown beside it, though, and then nothing downstream could tell top left from bottom right: they get the patches'
    own scale.
    """
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
    embeddings = model.vision_model.embeddings
    with torch.no_grad():
        embeddings.patch_embedding.weight.normal_(std=(3 * patch_size**2) ** -0.5)
        embeddings.position_embedding.weight.normal_(std=0.5)
    model.save_pretrained(folder)
    size: dict[str, int] = {"height": image_size, "width": image_size}
    CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=size).save_pretrained(folder)


def write_projector(path: Path, vision_hidden_size: int, hidden_size: int) -> None:
    """Write an untrained ``mlp2x_gelu`` projector for stage 1 to start from.

    LLaVA makes its projector before its trainer sets ``--seed``, so two runs would start from different ones. Loading
    this one (``--pretrain_mm_mlp_adapter``) makes runs comparable step by step.
    """
    first = torch.nn.Linear(vision_hidden_size, hidden_size)
    second = torch.nn.Linear(hidden_size, hidden_size)
    weights = {
        f"model.mm_projector.{number}.{name}": value.detach().clone()
        for number, layer in ((0, first), (2, second))
        for name, value in layer.named_parameters()
    }
    torch.save(weights, path)
