"""A checkpoint folder of transformers' own Llava (environment latest)."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

COLORS = {"red": (200, 0, 0), "blue": (0, 0, 200), "green": (0, 150, 0), "white": (255, 255, 255)}
WORDS = ["<pad>", "<unk>", "<s>", "</s>", "<image>", "user", "bot", ":", "what", "is", "this", "and", "now", "a",
         "square", *COLORS]  # fmt: skip
TEMPLATE = (
    "{{ bos_token }} {% for m in messages %}"
    "{{ 'user' if m['role'] == 'user' else 'bot' }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image> {% else %}{{ c['text'] }} {% endif %}{% endfor %}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}bot : {% endif %}"
)
SIZES = {"intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_checkpoint(folder: Path) -> Path:
    """Write a checkpoint of transformers' own Llava with its processor and chat template."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    transformers.LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        tokenizer=tokenizer, patch_size=4, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(**SIZES, hidden_size=16, image_size=16, patch_size=4)
    text = transformers.LlamaConfig(**SIZES, hidden_size=32, num_key_value_heads=2, vocab_size=len(WORDS),
                                    bos_token_id=2, eos_token_id=3, initializer_range=0.2)  # fmt: skip
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)
    model = transformers.LlavaForConditionalGeneration(config)
    for parameter in model.model.multi_modal_projector.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder
