"""A tiny Llava with its processor and a chat data set with images, on disk, as TRL's command line takes them."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [
    "<pad>",
    "<unk>",
    "<s>",
    "</s>",
    "<image>",
    "user",
    "assistant",
    ":",
    "what",
    "is",
    "this",
    "red",
    "blue",
    "a",
    "square",
]
IMAGE = WORDS.index("<image>")
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
)
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def make_processor() -> transformers.ProcessorMixin:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    return transformers.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer, patch_size=4, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip


def make_model() -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(**{**SIZES, "hidden_size": 16}, image_size=16, patch_size=4)
    text = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, vocab_size=len(WORDS))
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)
    return transformers.LlavaForConditionalGeneration(config)


def make_rows(number: int = 16) -> list[dict]:
    rows = []
    for index in range(number):
        colour = ("red", "blue")[index % 2]
        rows.append(
            {
                "images": [Image.new("RGB", (20, 20), colour)],
                "messages": [
                    {"role": "user", "content": "what is this"},
                    {"role": "assistant", "content": f"a {colour} square"},
                ],
            }
        )
    return rows


def write(folder: Path) -> None:
    """model/ (weights and processor) and data/ (a parquet file) in ``folder``."""
    from datasets import Dataset

    make_model().save_pretrained(folder / "model")
    make_processor().save_pretrained(folder / "model")
    (folder / "data").mkdir()
    Dataset.from_list(make_rows()).to_parquet(folder / "data" / "train.parquet")
