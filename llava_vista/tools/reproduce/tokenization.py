"""Whether LLaVA's conversation template and the base checkpoint's tokenizer fit, tried on some samples before training.

LLaVA notices a "tokenization mismatch" only while it trains: it prints a line, drops the sample's labels, and goes on
with a loss of 0. Run as a program in the upstream's checkout, with a request on stdin, this file prints the answer.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

from ..kit.report import Checklist
from .launch_script import find_program

SAMPLES = 200
#: A few of the published samples do not fit either; more than this share is a wrong template or tokenizer.
TOLERATED = 0.02
MISMATCH = "tokenization mismatch"


def check_tokens(checklist: Checklist, root: Path, base: Path, version: str, samples: list[dict[str, Any]]) -> None:
    """Put some samples through LLaVA's own preprocessing, in a process of its own."""
    label = "tokenization"
    some = random.Random(0).sample(samples, min(SAMPLES, len(samples)))
    request = json.dumps({"base": str(base), "version": version, "samples": some})
    command = [find_program("python") or sys.executable, "-m", __name__]
    done = subprocess.run(command, cwd=root, input=request, capture_output=True, text=True)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        checklist.wrong(label, f"could not be tried: {done.stderr.strip()[-300:] or 'no answer'}")
        return
    text = (
        f"template {version}, {len(some)} samples: {found['mismatches']} mismatches, {found['bare']} without any label"
    )
    if max(found["mismatches"], found["bare"]) > TOLERATED * len(some):
        checklist.wrong(label, f"{text}. The conversation template does not fit the tokenizer in {base}.")
    else:
        checklist.ok(label, text)


def _preprocess(request: dict[str, Any]) -> dict[str, int]:
    from llava import conversation
    from llava.train import train
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        request["base"], model_max_length=2048, padding_side="right", use_fast=False
    )
    tokenizer.pad_token = tokenizer.unk_token
    templates = conversation.conv_templates
    conversation.default_conversation = templates.get(request["version"], templates["vicuna_v1"])
    train.local_rank = 0
    options = types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
    said, bare = io.StringIO(), 0
    with contextlib.redirect_stdout(said):
        for sample in request["samples"]:
            turns = [copy.deepcopy(sample["conversations"])]
            if "image" in sample:
                turns = train.preprocess_multimodal(turns, options)
            labels = train.preprocess(turns, tokenizer, has_image="image" in sample)["labels"][0]
            bare += not bool((labels >= 0).any())
    return {"mismatches": said.getvalue().count(MISMATCH), "bare": bare}


if __name__ == "__main__":
    print(json.dumps(_preprocess(json.load(sys.stdin))))
