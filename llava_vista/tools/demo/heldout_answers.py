"""Answers of a fine-tuned checkpoint to held-out questions, with LLaVA's own model, template and image processing."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

MAX_NEW_TOKENS = 24


def load_records(path: str | Path) -> list[dict[str, Any]]:
    """Read one of the demo's JSON files."""
    return list(json.loads(Path(path).read_text(encoding="utf-8")))


def score(records: Sequence[dict[str, Any]], given: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Return the share of answers that are correct word for word: of all questions, and by kind of question."""
    correct: dict[str, list[bool]] = defaultdict(list)
    for record, answer in zip(records, given, strict=True):
        correct[record["kind"]].append(answer.strip().lower() == record["answer"].lower())
    total = [hit for hits in correct.values() for hit in hits]
    return fmean(total), {kind: fmean(hits) for kind, hits in sorted(correct.items())}


def majority_answers(training: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]]) -> list[str]:
    """Return the best guess without the image: the most frequent training answer to the same question.

    A question that is not in the training data gets the most frequent answer of all.
    """
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for turns in (sample["conversations"] for sample in training if "image" in sample):
        for human, gpt in zip(turns[::2], turns[1::2], strict=True):
            by_question[human["value"].replace("<image>", "").strip()][gpt["value"]] += 1
            overall[gpt["value"]] += 1
    return [by_question.get(record["text"], overall).most_common(1)[0][0] for record in records]


def prompt_for(question: str) -> str:
    """Return a question about an image in LLaVA-1.5's v1 template."""
    from llava.constants import DEFAULT_IMAGE_TOKEN
    from llava.conversation import conv_templates

    conversation = conv_templates["v1"].copy()
    conversation.append_message(conversation.roles[0], f"{DEFAULT_IMAGE_TOKEN}\n{question}")
    conversation.append_message(conversation.roles[1], None)
    return str(conversation.get_prompt())


def load_model(checkpoint: Path) -> tuple[Any, Any, Any]:
    """Load tokenizer, model and image processor as LLaVA does, on the CPU.

    The language model is float32 and the vision tower float16, as in ``llava.train``.
    """
    from llava.model import LlavaLlamaForCausalLM
    from transformers import AutoTokenizer
    from transformers.utils import logging

    # transformers would warn of the tower's weights in the checkpoint: LLaVA loads the tower from its own folder
    logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, use_fast=False)
    model = LlavaLlamaForCausalLM.from_pretrained(checkpoint, torch_dtype=torch.float32)
    tower = model.get_vision_tower()
    if not tower.is_loaded:
        tower.load_model()
    tower.to(device="cpu", dtype=torch.float16)
    return tokenizer, model.eval(), tower.image_processor


def answer_questions(checkpoint: Path, records: Sequence[dict[str, Any]], images: Path) -> list[str]:
    """Return the greedy answers of one checkpoint, without VISTA attached."""
    from llava.mm_utils import process_images, tokenizer_image_token
    from PIL import Image
    from tqdm import tqdm

    tokenizer, model, processor = load_model(checkpoint)
    given = []
    for record in tqdm(records, desc="answering", unit="question"):
        input_ids = tokenizer_image_token(prompt_for(record["text"]), tokenizer, return_tensors="pt")
        with Image.open(images / record["image"]) as picture:
            pixels = process_images([picture.convert("RGB")], processor, model.config)
        with torch.inference_mode():
            output = model.generate(
                input_ids.unsqueeze(0),
                images=pixels,
                attention_mask=torch.ones(1, len(input_ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
                pad_token_id=tokenizer.unk_token_id,
                use_cache=True,
            )
        given.append(tokenizer.decode(output[0], skip_special_tokens=True).strip())
    return given
