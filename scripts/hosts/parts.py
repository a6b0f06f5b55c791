"""The tiny parts a run starts from: language model with its tokenizer, vision tower, images and conversations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from llava_vista.tools.demo.scene_dataset import DataSizes, write_data
from llava_vista.tools.demo.tiny_checkpoint import TEMPLATE_TEXTS, write_llama, write_tokenizer, write_vision_tower

IMAGE_SIZE, PATCH = 56, 14
HIDDEN, LAYERS, HEADS = 64, 2, 4
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 2048,
}


def write_records(folder: Path) -> tuple[Path, Path, list[str]]:
    """Two dozen conversations, some without an image. Returns the JSON file, the folder of images, and all texts."""
    sizes = DataSizes(pretrain_scenes=1, finetune_scenes=20, text_only=8, turns=2, heldout_questions=1)
    paths = write_data(folder, sizes, seed=0, image_size=IMAGE_SIZE)
    records = json.loads(paths.finetune.read_text(encoding="utf-8"))
    texts = [part["value"] for record in records for part in record["conversations"]]
    return paths.finetune, paths.images, texts


def _llama(folder: Path, texts: list[str]) -> None:
    length = write_tokenizer(folder, texts, 600)
    write_llama(folder, vocab_size=length, hidden_size=HIDDEN, layers=LAYERS, heads=HEADS, intermediate_size=96)


def _gemma(folder: Path, texts: list[str]) -> None:
    from transformers import GemmaConfig, GemmaForCausalLM

    length = write_tokenizer(folder, texts, 600)
    config = GemmaConfig(vocab_size=length, num_key_value_heads=HEADS, head_dim=HIDDEN // HEADS, **SIZES)
    GemmaForCausalLM(config).save_pretrained(folder)


def _byte_level(folder: Path, texts: list[str], special: list[str]) -> tuple[str, str, int]:
    """Train a byte-level BPE; returns vocab file, merges file and its size."""
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([*TEMPLATE_TEXTS, *texts], vocab_size=600, special_tokens=special, show_progress=False)
    folder.mkdir(parents=True, exist_ok=True)
    vocab, merges = bpe.save_model(str(folder))
    return vocab, merges, bpe.get_vocab_size()


def _code_gen(folder: Path, texts: list[str], **special: str) -> int:
    """Write Phi's kind of tokenizer, with more ``special`` tokens; returns its length."""
    from transformers import CodeGenTokenizer

    vocab, merges, length = _byte_level(folder, texts, ["<|endoftext|>"])
    CodeGenTokenizer(vocab, merges, model_max_length=2048, **special).save_pretrained(folder)
    return length


def _phi(folder: Path, texts: list[str]) -> None:
    from transformers import PhiConfig, PhiForCausalLM

    length = _code_gen(folder, texts)
    config = PhiConfig(vocab_size=length + 8, **SIZES, bos_token_id=0, eos_token_id=0)
    PhiForCausalLM(config).save_pretrained(folder)


def _stablelm(folder: Path, texts: list[str]) -> None:
    from transformers import StableLmConfig, StableLmForCausalLM

    length = _code_gen(folder, texts, pad_token="!")  # the host sets none, and pads
    config = StableLmConfig(vocab_size=length + 8, num_key_value_heads=HEADS, **SIZES, bos_token_id=0, eos_token_id=0)
    StableLmForCausalLM(config).save_pretrained(folder)


def _qwen(folder: Path, texts: list[str]) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

    vocab, merges, length = _byte_level(folder, texts, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer = Qwen2Tokenizer(
        vocab, merges, model_max_length=2048, additional_special_tokens=["<|im_start|>", "<|im_end|>"]
    )
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(vocab_size=length + 8, num_key_value_heads=HEADS, **SIZES, bos_token_id=0, eos_token_id=2)
    Qwen2ForCausalLM(config).save_pretrained(folder)


def _clip(folder: Path, image_size: int = IMAGE_SIZE, patch_size: int = PATCH) -> None:
    write_vision_tower(folder, image_size=image_size, patch_size=patch_size, hidden_size=32, layers=2)


def _clip224(folder: Path) -> None:
    """For hosts whose dummy image of a text-only sample is 224 by 224 whatever the tower takes."""
    _clip(folder, 224, 56)


def _siglip(folder: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH,
    }
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16,
    }  # fmt: skip
    SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}).save_pretrained(folder)


def _clip336(folder: Path) -> None:
    _clip(folder, 336, 14)


LANGUAGE_MODELS: dict[str, Callable[[Path, list[str]], Any]] = {
    "gemma": _gemma,
    "llama": _llama,
    "phi": _phi,
    "qwen": _qwen,
    "qwen2": _qwen,
    "stablelm": _stablelm,
    "tinyllama": _llama,
    "vicuna": _llama,
}
TOWERS: dict[str, Callable[[Path], Any]] = {
    "clip": _clip,
    "clip224": _clip224,
    "clip336": _clip336,
    "openai/clip": _clip,
    "siglip": _siglip,
}


def build(folder: Path, llm: str, tower: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Make all parts below ``folder``. Hosts recognise models by their path, so its end is the kind."""
    data, images, texts = write_records(folder / "data")
    paths = {"llm": folder / "llm" / llm, "tower": folder / "tower" / tower, "config": folder / "config.json"}
    torch.manual_seed(0)
    LANGUAGE_MODELS[llm](paths["llm"], texts)
    TOWERS[tower](paths["tower"])
    own = json.loads((paths["llm"] / "config.json").read_text(encoding="utf-8"))
    paths["config"].write_text(json.dumps({**own, **config}), encoding="utf-8")
    # VILA's registry of datasets; JSON is YAML too.
    listed = {"tiny": {"_target_": "llava.data.LLaVADataset", "data_path": str(data), "media_dir": str(images)}}
    paths["datasets"] = folder / "datasets.yaml"
    paths["datasets"].write_text(json.dumps(listed), encoding="utf-8")
    # Some hosts tell a tower by how its path begins: the runs are started in the folder of towers.
    made = {name: str(path) for name, path in paths.items()}
    return {"relative_tower": tower, "data": str(data), "images": str(images), **made}
