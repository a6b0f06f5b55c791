"""The reproduction kit for real (scripts/smoke/run.sh), and those of its checks that need transformers or LLaVA."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from runs import environment, history

from llava_vista.tools.demo.tiny_checkpoint import SYSTEM_PROMPT, write_tokenizer
from llava_vista.tools.kit.report import OK, WRONG, Checklist
from llava_vista.tools.reproduce.training_inputs import check_generation_config, check_tokens

pytestmark = pytest.mark.environments("llava")

SMOKE = Path(__file__).parents[2] / "scripts" / "smoke" / "run.sh"


def test_smoke(tmp_path) -> None:
    folder = tmp_path / "smoke"
    result = subprocess.run(
        ["bash", str(SMOKE), str(folder)], capture_output=True, text=True, timeout=900,
        env=environment(PYTHON=sys.executable, OMP_NUM_THREADS="1"),
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "Nothing is missing." in (folder / "dry-run.txt").read_text()
    runs = folder / "runs" / "seed42"
    for stage in ("pretrain", "finetune"):
        baseline, vista = (history(runs / arm / f"llava-tiny-{stage}", "loss") for arm in ("baseline", "vista-l2"))
        assert len(baseline) == len(vista) > 3
        assert not any("vista_loss" in record for record in baseline)
        assert any(record["vista_aligned_samples"] for record in vista)
    # both arms began with the same weights and the same first batch
    first = [history(runs / arm / "llava-tiny-pretrain", "loss")[0] for arm in ("baseline", "vista-l2")]
    assert first[1]["ce_loss"] == pytest.approx(first[0]["loss"], rel=0.05)
    record = json.loads((runs / "vista-l2" / "llava-tiny-finetune" / "vista.json").read_text())
    assert record["config"]["method"] == "l2"
    assert torch.load(runs / "untrained_projector.bin")
    report = (folder / "runs" / "comparison.md").read_text()
    assert "cross-entropy" in report
    assert "TextVQA" in report
    # lmms-eval, from the package index, has run: the same questions of both arms, with McNemar's test
    assert re.search(r"^\| scenes \| exact_match \| % \| 16 \|", report, re.MULTILINE) and "McNemar" in report
    # the launch scripts are as they were, and nothing was written where they point
    checkout = folder / "checkout"
    assert (checkout / "scripts/v1_5/finetune.sh").read_bytes() == (
        SMOKE.parent / "LLaVA/scripts/v1_5/finetune.sh"
    ).read_bytes()
    assert not (checkout / "checkpoints").exists()


def test_generation_config_that_would_fail_at_the_end_of_the_run(tmp_path) -> None:
    """As Vicuna 1.5's was: sampling options without sampling."""
    path = tmp_path / "generation_config.json"
    for content, mark in (
        (None, OK),
        ({"max_length": 64, "temperature": 0.9, "top_p": 0.6}, WRONG),
        ({"max_length": 64, "temperature": 0.9, "top_p": 0.6, "do_sample": True}, OK),
        ({"max_length": 64}, OK),
    ):
        if content is not None:
            path.write_text(json.dumps(content))
        checklist = Checklist()
        check_generation_config(checklist, tmp_path)
        assert [line.mark for line in checklist.lines] == [mark], content


def test_tokenizer_that_does_not_fit_the_template_is_found_before_training(tmp_path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A red dot."}]
    records = [{"image": "x.png", "conversations": turns}] * 3
    base = tmp_path / "base"
    write_tokenizer(base, ["What is it? A red dot."], 400)
    checklist = Checklist()
    check_tokens(checklist, tmp_path, base, "v1", records)
    assert checklist.lines[0].mark == OK, checklist.lines
    assert "3 samples: 0 mismatches, 0 without any label" in checklist.lines[0].text

    # without bytes to fall back on, a sign that it never saw is <unk>, which LLaVA takes for padding
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{SYSTEM_PROMPT} USER: What is it? A red dot. ASSISTANT: abc"]), model_writer=model,
        model_type="bpe", vocab_size=300, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (base / "tokenizer.model").write_bytes(model.getvalue())
    turns[1]["value"] = "A red @ dot @."
    checklist = Checklist()
    check_tokens(checklist, tmp_path, base, "v1", records)
    assert checklist.lines[0].mark == WRONG, checklist.lines
