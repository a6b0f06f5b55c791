"""Results of lmms-eval: both layouts, what was asked or run differently, what has no score, broken files."""

from __future__ import annotations

import json

import pytest
from compare_files import AFTER, BEFORE, arms, row, scored, sha, write_lmms

from llava_vista.tools.compare.comparison import compare
from llava_vista.tools.kit.lmms_eval import digest
from llava_vista.tools.kit.statistics import mcnemar_exact

pytestmark = pytest.mark.environments("latest")


@pytest.mark.parametrize("layout", ["0.3", "0.7"])
def test_both_layouts(tmp_path, layout) -> None:
    result = arms(
        tmp_path,
        {"textvqa_val": {"exact_match": scored(BEFORE)}},
        {"textvqa_val": {"exact_match": scored(AFTER)}},
        layout=layout,
    )
    assert result.is_complete, (result.problems, result.scores.not_compared)
    assert len(result.scores.rows) == 1  # no spread and no submission is taken for a metric
    found = row(result, "textvqa_val")
    assert (found.baseline, found.vista) == ([50.0], [60.0])
    assert found.change == pytest.approx(10) and found.relative_change == pytest.approx(0.2)
    assert found.test == "McNemar" and found.p == pytest.approx(mcnemar_exact(15, 5))
    assert found.interval_95[0] == pytest.approx(2, abs=1.01) and found.interval_95[1] == pytest.approx(18, abs=1.01)
    assert found.noise == "questions" and found.questions == 100 and found.better
    assert found.published["l2"] == 46.63 and found.published["model"] == "LLaVA-1.5-7B"


def test_generations_of_lmms_eval_are_not_mixed(tmp_path) -> None:
    task = {"gqa": {"exact_match": scored(BEFORE)}}
    result = arms(tmp_path, task, task, before_layout="0.3", after_layout="0.7")
    assert not result.scores.rows and not result.is_complete
    assert "gqa: lmms-eval generation is 0.3 in the baseline, 0.7 with VISTA" in result.scores.not_compared[0]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"after_limit": 100}, "limit is none in the baseline, 100 with VISTA"),
        ({"after_limit": 0.5}, "limit is none"),
        ({"after_prompt": "Describe picture {}."}, "another prompt hash for 100 of 100 questions"),
        ({"after_filter_name": "flexible-extract"}, "missing in"),
    ],
)
@pytest.mark.parametrize("layout", ["0.3", "0.7"])
def test_what_was_asked_differently_is_not_compared(tmp_path, layout, changed, named) -> None:
    good = {"exact_match": scored(BEFORE)}
    result = arms(tmp_path, {"gqa": good}, {"gqa": good}, layout=layout, **changed)
    assert not result.scores.rows
    assert named in "\n".join(result.scores.not_compared) and "gqa" in result.scores.not_compared[0]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"config": {"model": "llava_hf", "model_backend": None}}, "model wrapper is"),
        ({"config": {"model_backend": "lmms_eval.models.chat.llava.Llava (chat)"}}, "(simple) in the baseline"),
        (
            {"config": {"model_args": "pretrained=x,dtype=bfloat16"}},
            'model_args is {} in the baseline, {"dtype": "bfloat16"}',
        ),
        ({"config": {"model_args": {"pretrained": "x", "attn_implementation": "sdpa"}}}, "attn_implementation"),
        ({"task_config": {"repeats": 3}}, "repeats is 1 in the baseline, 3 with VISTA"),
        ({"lmms_eval_version": "main@def5678"}, "lmms-eval release is main@abc1234 in the baseline, main@def5678"),
    ],
)
def test_a_model_that_was_run_differently_is_not_compared(tmp_path, changed, named) -> None:
    good = {"gqa": {"exact_match": scored(BEFORE)}}
    result = arms(tmp_path, good, good, layout="0.7", **{f"after_{name}": value for name, value in changed.items()})
    assert not result.scores.rows and named in result.scores.not_compared[0]


def test_another_checkpoint_on_another_device_is_compared(tmp_path) -> None:
    """And a release that lmms-eval does not know, as when it is installed from a package index, hinders nothing."""
    good = {"gqa": {"exact_match": scored(BEFORE)}}
    other = {"model_args": "pretrained=y,model_name=y,device_map=cuda:1", "batch_size": 4}
    result = arms(tmp_path, good, good, layout="0.7", lmms_eval_version="unknown@unknown", after_config=other)
    assert result.is_complete, result.not_compared


def test_prompts_of_both_layouts_have_the_same_hash() -> None:
    """0.3 writes prompt_hash, 0.7 only the prompt itself."""
    assert digest("What is it?") == sha("What is it?")


def test_ocr_tokens_make_another_task(tmp_path) -> None:
    task = {"textvqa_val": {"exact_match": scored(BEFORE)}}
    result = arms(tmp_path, task, task, after_ocr=True)
    assert not result.scores.rows
    text = "\n".join(result.scores.not_compared)
    assert "textvqa_val: missing in" in text and "textvqa_val with OCR tokens: missing in" in text
    both = arms(tmp_path / "2", task, task, ocr=True)
    assert row(both, "textvqa_val with OCR tokens").published is None


@pytest.mark.parametrize("value", [[], None, "N/A", float("nan")])
def test_a_task_without_a_score_is_named(tmp_path, value) -> None:
    good = {"exact_match": scored(BEFORE)}
    tasks = {"gqa": good, "vizwiz": {"exact_match": (value, None)}}
    result = arms(tmp_path, tasks, tasks)
    assert row(result, "gqa").change == 0 and len(result.scores.rows) == 1 and not result.is_complete
    assert len(result.problems) == 2  # once per arm
    assert f"vizwiz is not scored (exact_match is {json.dumps(value)})" in result.problems[0]


def test_a_group_needs_no_score_of_its_own_and_a_task_does(tmp_path) -> None:
    good = {"exact_match": scored(BEFORE)}
    group = {"group_subtasks": {"both": ["gqa"]}}
    result = arms(tmp_path, {"gqa": good, "both": {}}, {"gqa": good, "both": {}}, **group)
    assert result.is_complete, result.problems
    result = arms(tmp_path / "2", {"gqa": good, "alone": {}}, {"gqa": good, "alone": {}}, **group)
    assert "alone is not scored (it has no metric)" in result.problems[0]


@pytest.mark.parametrize("layout", ["0.3", "0.7"])
def test_scores_of_empty_answers_are_not_used(tmp_path, layout) -> None:
    task = {"gqa": {"exact_match": scored([0.0] * 100)}}
    result = arms(tmp_path, task, task, layout=layout, answer=" ")
    assert not result.scores.rows and not result.is_complete
    assert "all 100 answers to gqa are empty, so its scores are not used" in result.problems[0]
    assert arms(tmp_path / "2", task, task, layout=layout, answer="no").is_complete


def test_truncated_files(tmp_path) -> None:
    """A cut samples file costs the interval; a cut results file costs that evaluation; each is named."""
    task = {"gqa": {"exact_match": scored(BEFORE)}, "ai2d": {"exact_match": scored(BEFORE)}}
    baseline, vista = write_lmms(tmp_path / "base", task), write_lmms(tmp_path / "vista", task)
    samples = next(vista.glob("*/*_samples_gqa.jsonl"))
    samples.write_text(samples.read_text()[:-40])
    result = compare([str(baseline)], [str(vista)])
    assert row(result, "gqa").interval_95 is None and row(result, "gqa").change == 0
    assert row(result, "ai2d").interval_95 is not None
    assert any(f"{samples}, line 100 is not complete JSON" in problem for problem in result.problems)
    results = next(vista.glob("*/*_results.json"))
    results.write_text(results.read_text()[:300])
    result = compare([str(baseline)], [str(vista)])
    assert any(f"{results} is not complete JSON" in problem for problem in result.problems)
    assert not result.scores.rows and not result.is_complete


def test_the_newest_of_two_results_counts_and_two_models_are_refused(tmp_path) -> None:
    old, new = {"gqa": {"exact_match": (0.1, None)}}, {"gqa": {"exact_match": (0.6, None)}}
    folder = write_lmms(tmp_path / "base", new, date="20260202_000000")
    write_lmms(folder, old, date="20260101_000000")
    vista = write_lmms(tmp_path / "vista", new)
    assert row(compare([str(folder)], [str(vista)]), "gqa").change == 0
    write_lmms(folder, new, model="another")
    result = compare([str(folder)], [str(vista)])
    assert any("several models (another, llava-v1.5-7b)" in problem for problem in result.problems)
    inside = folder / "another"
    assert row(compare([str(inside)], [str(vista)]), "gqa").change == 0
