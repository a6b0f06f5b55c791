"""Outputs of LLaVA's own evaluation scripts, and broken ones."""

from __future__ import annotations

import json

import pytest
from compare_files import row, write_llava

from llava_vista.tools.compare.comparison import compare
from llava_vista.tools.kit.evaluation_scores import LLAVA_SCRIPTS
from llava_vista.tools.kit.statistics import mcnemar_exact

pytestmark = pytest.mark.environments("latest")


def test_llavas_own_scripts(tmp_path) -> None:
    baseline = write_llava(tmp_path / "base", right=[True, False] * 10)
    vista = write_llava(tmp_path / "vista", right=[True] * 18 + [False] * 2, f1=(0.86, 0.87, 0.88), textvqa=59.0)
    result = compare([str(baseline)], [str(vista)])
    assert result.is_complete, (result.problems, result.scores.not_compared)
    science = row(result, "ScienceQA", "accuracy")
    assert science.test == "McNemar" and science.p == pytest.approx(mcnemar_exact(9, 1))
    assert row(result, "TextVQA with OCR tokens").change == pytest.approx(0.79)
    assert row(result, "POPE").baseline[0] == pytest.approx(86.0)
    assert row(result, "POPE random", "F1").vista == [88.0]
    assert row(result, "MME perception").baseline == [1510.7] and row(result, "MME perception").unit == "points"
    assert row(result, "GQA testdev_balanced").baseline == [61.98]
    assert all(item.published is None for item in result.scores.rows)  # those are lmms-eval's
    assert all(item.harness == LLAVA_SCRIPTS for item in result.scores.rows)


def test_textvqa_without_ocr_tokens_is_another_task(tmp_path) -> None:
    baseline, vista = write_llava(tmp_path / "base"), write_llava(tmp_path / "vista")
    (vista / "answers").mkdir()
    (vista / "answers" / "llava-v1.5-7b.jsonl").write_text(json.dumps({"prompt": "What is it?\nAnswer"}) + "\n")
    text = "\n".join(compare([str(baseline)], [str(vista)]).scores.not_compared)
    assert "TextVQA without OCR tokens: missing" in text and "TextVQA with OCR tokens: missing" in text


def test_broken_llava_outputs(tmp_path) -> None:
    baseline, vista = write_llava(tmp_path / "base"), write_llava(tmp_path / "vista")
    (vista / "scienceqa" / "llava-v1.5-7b_output.jsonl").write_text('{"correct": [')
    (vista / "logs" / "gqa2.log").write_text("Binary: 70.00%\nOpen: 40.00%\nAccuracy: 55.00%\n")
    (vista / "logs" / "mme.log").write_text("=========== Perception ===========\nTraceback")
    result = compare([str(baseline)], [str(vista)])
    problems = "\n".join(result.problems)
    assert "llava-v1.5-7b_output.jsonl" in problems and "two results for GQA" in problems
    text = "\n".join(result.scores.not_compared)
    assert "GQA testdev_balanced: missing" in text and "MME perception: missing" in text
    assert row(result, "ScienceQA", "accuracy").interval_95 is None
