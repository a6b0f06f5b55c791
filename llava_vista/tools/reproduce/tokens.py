"""Do LLaVA's conversation template and the base checkpoint's tokenizer fit? Tried on some samples before training.

LLaVA notices a "tokenization mismatch" only while it trains: it prints a line, drops the sample's labels, and goes on
with a loss of 0. Run as a program, in the upstream's checkout: ``python tokens.py REQUEST.json`` prints a JSON object.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

from .checklist import Checklist
from .data import some
from .launch import find_program

SAMPLES = 200
#: A few of the published samples do not fit either; more than this share is a wrong template or tokenizer.
TOLERATED = 0.02
MISMATCH = "tokenization mismatch"


def check_tokens(
    checklist: Checklist, root: Path, base: Path, version: str, records: list[dict[str, Any]], package: str
) -> None:
    """Put some samples through LLaVA's own preprocessing, in a process of its own."""
    label = "tokenization"
    if package != "llava":
        checklist.note(label, f"not tried beforehand for {package}; a run that reports mismatches is stopped")
        return
    request = {"base": str(base), "version": version, "records": some(records, SAMPLES)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "request.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        command = [find_program("python") or sys.executable, "-m", "llava_vista.tools.reproduce.tokens", str(path)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        checklist.missing(label, f"could not be tried: {done.stderr.strip()[-300:] or 'no answer'}")
        return
    text = (
        f"template {version}, {found['samples']} samples: {found['mismatches']} mismatches, {found['bare']} without "
        "any label"
    )
    if max(found["mismatches"], found["bare"]) > TOLERATED * found["samples"]:
        checklist.missing(label, f"{text}. The conversation template does not fit the tokenizer in {base}.")
    else:
        checklist.ok(label, text)


def _examine(request: dict[str, Any]) -> dict[str, int]:
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
        for record in request["records"]:
            has_image = "image" in record
            turns = [copy.deepcopy(record["conversations"])]
            if has_image:
                turns = train.preprocess_multimodal(turns, options)
            labels = train.preprocess(turns, tokenizer, has_image=has_image)["labels"][0]
            bare += not bool((labels >= 0).any())
    return {"samples": len(request["records"]), "mismatches": said.getvalue().count(MISMATCH), "bare": bare}


if __name__ == "__main__":
    print(json.dumps(_examine(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
