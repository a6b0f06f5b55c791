"""Evaluations of two arms: both layouts of lmms-eval, LLaVA's own scripts, and broken ones of each."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from compare_files import entry_mean, sha, write_llava, write_lmms, write_training

from llava_vista.tools.compare.comparison import Comparison, compare
from llava_vista.tools.compare.score_rows import ScoreRow
from llava_vista.tools.kit.evaluation_scores import LLAVA_SCRIPTS, LMMS_EVAL
from llava_vista.tools.kit.lmms_eval import digest
from llava_vista.tools.kit.statistics import mcnemar_exact

pytestmark = pytest.mark.environments("latest")

BEFORE = [1.0] * 50 + [0.0] * 50
AFTER = [1.0] * 45 + [0.0] * 5 + [1.0] * 15 + [0.0] * 35  # 15 gained, 5 lost


def scored(entries: list) -> tuple[float, list]:
    return entry_mean(entries), entries


def arms(tmp_path: Path, before: dict, after: dict, **options) -> Comparison:
    """Both arms by lmms-eval; ``before_*`` and ``after_*`` options go to one of them."""
    own = {side: {key[len(side) :]: value for key, value in options.items() if key.startswith(side)}
           for side in ("before_", "after_")}  # fmt: skip
    common = {key: value for key, value in options.items() if not key.startswith(("before_", "after_"))}
    baseline = write_lmms(tmp_path / "base", before, **common, **own["before_"])
    vista = write_lmms(tmp_path / "vista", after, **common, **own["after_"])
    return compare([str(baseline)], [str(vista)])


def row(result: Comparison, task: str, metric: str | None = None) -> ScoreRow:
    found = [item for item in result.scores.rows if item.task == task and metric in (None, item.metric)]
    assert len(found) == 1, [(item.task, item.metric) for item in result.scores.rows]
    return found[0]


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
    ("model", "published"),
    [
        ("tiny-llava-phi-2-siglip-so400m-patch14-384-base-finetune", 61.20),
        ("tinyllava__TinyLLaVA-Phi-2-SigLIP-3.1B", 61.20),
        ("liuhaotian__llava-v1.5-7b", 62.00),
        ("llava_1.5_7b-vista", 62.00),
        ("llava-v1.5-13b", None),
        ("llava-v1.5-7b-lora", None),
        ("llava-v1.6-vicuna-7b", None),
        ("TinyLLaVA-0.55B-Qwen2-SigLIP", None),
        ("runs__finetune", None),
    ],
)
def test_published_numbers_are_of_the_model_that_was_run(tmp_path, model, published) -> None:
    task = {"gqa": {"exact_match": scored(BEFORE), "other": (0.3, None)}}
    result = arms(tmp_path, task, task, model=model)
    found = row(result, "gqa", "exact_match")
    assert (found.published and found.published["baseline"]) == published
    assert found.main and not row(result, "gqa", "other").main  # the headline stays what was published
    assert any("No published numbers are shown" in note for note in result.scores.notes) == (published is None)


def test_published_numbers_of_two_models_are_not_shown(tmp_path) -> None:
    task = {"gqa": {"exact_match": scored(BEFORE)}}
    result = arms(tmp_path, task, task, after_model="tinyllava-phi-2")
    assert row(result, "gqa").published is None


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


def test_harnesses_are_not_mixed(tmp_path) -> None:
    baseline = write_lmms(tmp_path / "base", {"textvqa_val": {"exact_match": scored(BEFORE)}})
    result = compare([str(baseline)], [str(write_llava(tmp_path / "vista"))])
    assert not result.scores.rows
    assert [text.partition(":")[0] for text in result.scores.not_compared] == [LMMS_EVAL, LLAVA_SCRIPTS]


def test_a_missing_task_and_a_missing_metric_do_not_stop_the_rest(tmp_path) -> None:
    good = {"exact_match": scored(BEFORE)}
    result = arms(
        tmp_path,
        {"gqa": good, "pope": {"pope_accuracy": (0.8, None), "pope_f1_score": (0.8, None)}, "ai2d": good},
        {"gqa": good, "pope": {"pope_accuracy": (0.8, None)}},
    )
    assert row(result, "gqa") and row(result, "pope")
    text = "\n".join(result.scores.not_compared)
    assert "ai2d: missing in" in text and "pope (pope_f1_score): missing in" in text
    assert not result.is_complete


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


def test_missing_questions_are_said(tmp_path) -> None:
    task = {"gqa": {"exact_match": scored(BEFORE)}}
    baseline, vista = write_lmms(tmp_path / "base", task), write_lmms(tmp_path / "vista", task)
    samples = next(vista.glob("*/*_samples_gqa.jsonl"))
    samples.write_text("".join(samples.read_text().splitlines(keepends=True)[:90]))
    result = compare([str(baseline)], [str(vista)])
    assert "100 questions are logged for the baseline, 90 with VISTA" in row(result, "gqa").notes[0]
    with open(samples, "a") as file:
        file.write(samples.read_text())
    result = compare([str(baseline)], [str(vista)])
    assert "doc_id more than once" in result.problems[0] and row(result, "gqa").interval_95 is None


def test_samples_that_do_not_give_the_reported_number_are_not_used(tmp_path) -> None:
    result = arms(tmp_path, {"x": {"m": (0.4, BEFORE)}}, {"x": {"m": scored(AFTER)}})
    assert row(result, "x").interval_95 is None
    assert "no known way of aggregating" in row(result, "x").notes[0]


def mme(right: list[bool]) -> tuple[float, list]:
    """40 images of two questions in 4 categories, and the literal score."""
    entries = [
        {"question_id": f"i{number // 2}", "category": f"c{number // 20}", "score": float(good)}
        for number, good in enumerate(right)
    ]
    total = 0.0
    for category in range(4):
        of_it = right[20 * category : 20 * category + 20]
        pairs = list(zip(of_it[::2], of_it[1::2], strict=True))
        total += sum(100 * (a + b) / 2 + 100 * (a and b) for a, b in pairs) / len(pairs)
    return total, entries


def test_mme_is_resampled_by_image(tmp_path) -> None:
    rng = random.Random(0)
    before = [rng.random() < 0.6 for _ in range(80)]
    after = [good or rng.random() < 0.5 for good in before]
    (low, first), (high, second) = mme(before), mme(after)
    empty = [None] * 80  # the lines of the other half have the other metric only
    result = arms(
        tmp_path,
        {"mme": {"mme_perception_score": (low, first + empty), "mme_cognition_score": (low, empty + first)}},
        {"mme": {"mme_perception_score": (high, second + empty), "mme_cognition_score": (high, empty + second)}},
    )
    found = row(result, "mme", "mme_perception_score")
    assert found.unit == "points" and found.change == pytest.approx(high - low)
    assert found.test == "permutation" and 0 < found.interval_95[0] < found.change < found.interval_95[1]
    assert sum(map(len, found.paired.strata)) == 40
    assert any("20 MME points" in note for note in result.scores.notes)
    assert all(item.main for item in result.scores.rows)  # both are published, and neither is a percentage


def test_a_small_mme_change_of_one_run_is_within_llavas_noise(tmp_path) -> None:
    def of(value: float) -> dict:
        return {"mme": {"mme_perception_score": (value, None), "mme_cognition_score": (300.0, None)}}

    result = arms(tmp_path, of(1500.0), of(1512.0))
    assert any("noise of about 20 points" in note for note in row(result, "mme", "mme_perception_score").notes)
    assert not any("20 points" in note for note in row(result, "mme", "mme_cognition_score").notes)
    result = arms(tmp_path / "2", of(1500.0), of(1550.0))
    assert not any("20 points" in note for note in row(result, "mme", "mme_perception_score").notes)


def test_f1_and_category_means(tmp_path) -> None:
    def pope(pairs: list[tuple[str, str]]) -> dict:
        entries = [{"question_id": 0, "score": float(a == b), "prediction": a, "ground_truth": b} for a, b in pairs]
        hits = sum(a == b == "yes" for a, b in pairs)
        precision = hits / sum(a == "yes" for a, _ in pairs)
        recall = hits / sum(b == "yes" and a in ("yes", "no") for a, b in pairs)
        f1 = 2 * precision * recall / (precision + recall)
        accuracy = sum(a == b for a, b in pairs) / len(pairs)
        return {"pope_accuracy": (accuracy, entries), "pope_f1_score": (f1, entries),
                "pope_precision": (precision, entries), "pope_recall": (recall, entries)}  # fmt: skip

    def mmstar(scores: list[float]) -> dict:
        sizes = {"a": scores[:10], "b": scores[10:]}
        entries = [{"l2_category": "ab"[index >= 10], "score": score} for index, score in enumerate(scores)]
        return {"average": (sum(map(entry_mean, sizes.values())) / 2, entries)}

    def seed(letters: str) -> dict:
        entries = [{"pred": letter, "answer": "A"} for letter in letters]
        return {"seed_image": (letters.count("A") / len(letters), entries)}

    rng = random.Random(3)
    both = []
    for chance in (0.6, 0.8):
        pairs = [(rng.choice(["maybe", "yes", truth, truth, truth]) if rng.random() < chance else "no", truth)
                 for truth in ["yes", "no"] * 30]  # fmt: skip
        scores = [float(rng.random() < chance) for _ in range(50)]
        both.append(
            {"pope": pope(pairs), "mmstar": mmstar(scores), "seedbench": seed("A" * int(50 * chance) + "B" * 20)}
        )
    result = arms(tmp_path, both[0], both[1])
    for item in result.scores.rows:
        if item.task in ("pope", "mmstar"):
            assert item.interval_95 is not None, (item.task, item.metric)
            assert item.interval_95[0] <= item.change <= item.interval_95[1]
    assert row(result, "pope", "pope_accuracy").main and not row(result, "pope", "pope_f1_score").main


def test_lower_is_better_is_respected(tmp_path) -> None:
    entries = [12.0 + index % 7 for index in range(100)]
    result = arms(
        tmp_path,
        {"asr": {"wer": scored(entries)}},
        {"asr": {"wer": scored([value - 1 for value in entries])}},
        lower=["wer"],
    )
    found = row(result, "asr")
    assert found.change == pytest.approx(-1) and found.better is True and found.verdict == "better"
    assert found.unit == "as reported"


def test_average(tmp_path) -> None:
    def tasks(a: float, b: float, points: float) -> dict:
        return {
            "gqa": {"exact_match": (a, None)},
            "ai2d": {"exact_match": (b, None)},
            "mme": {"mme_perception_score": (points, None)},
            "ocrbench": {"ocrbench_accuracy": (0.313, None)},
        }

    result = arms(tmp_path, tasks(0.6, 0.5, 1500), tasks(0.62, 0.5, 1400))
    found = row(result, "average")
    assert (found.baseline[0], found.vista[0]) == pytest.approx((55.0, 56.0))  # neither MME nor OCRBench is in it
    assert found.published["baseline"] == pytest.approx((62.00 + 54.80) / 2)
    assert found.published["l2"] == pytest.approx((62.55 + 56.70) / 2)
    assert row(result, "ocrbench").baseline == [313.0]
    assert found.interval_95 is None
    paired = arms(
        tmp_path / "2",
        {"gqa": {"exact_match": scored(BEFORE)}, "ai2d": {"exact_match": scored(BEFORE)}},
        {"gqa": {"exact_match": scored(AFTER)}, "ai2d": {"exact_match": scored(BEFORE)}},
    )
    found = row(paired, "average")
    assert found.change == pytest.approx(5) and found.interval_95 is not None
    assert found.interval_95[1] - found.interval_95[0] == pytest.approx(
        (row(paired, "gqa").interval_95[1] - row(paired, "gqa").interval_95[0]) / 2, abs=0.6
    )
    assert any("state no average" in note for note in paired.scores.notes)


def test_verdicts_follow_the_adjusted_p_and_the_interval(tmp_path) -> None:
    same = {f"task{number}": {"acc": scored(BEFORE)} for number in range(9)}
    gained = {"gqa": {"exact_match": scored(AFTER)}}
    result = arms(tmp_path, {**same, "gqa": {"exact_match": scored(BEFORE)}}, {**same, **gained})
    found = row(result, "gqa")
    assert found.p == pytest.approx(mcnemar_exact(15, 5)) and found.p < 0.05
    assert found.p_holm == pytest.approx(10 * found.p) and found.verdict == "not significant"
    assert row(result, "task0").verdict == "equal" and row(result, "task0").interval_95 == (0, 0)
    assert any("10 headline numbers were tested" in note for note in result.scores.notes)
    alone = row(arms(tmp_path / "2", {"gqa": {"exact_match": scored(BEFORE)}}, gained), "gqa")
    assert alone.verdict == "better" and alone.p_holm == alone.p


def test_equal_numbers_of_different_answers_are_not_called_equal(tmp_path) -> None:
    result = arms(tmp_path, {"gqa": {"exact_match": scored(BEFORE)}}, {"gqa": {"exact_match": scored(BEFORE[::-1])}})
    found = row(result, "gqa")
    assert found.change == 0 and found.interval_95[0] < -10 and found.interval_95[1] > 10
    assert found.verdict == "not significant"
    unlogged = {"gqa": {"exact_match": (0.5, None)}}
    assert row(arms(tmp_path / "2", unlogged, unlogged), "gqa").verdict == "n/a"


def test_seeds(tmp_path) -> None:
    def runs(name: str, values: list[float]) -> list[str]:
        return [str(write_lmms(tmp_path / f"{name}{number}", {"gqa": {"exact_match": (value, None)}}))
                for number, value in enumerate(values)]  # fmt: skip

    baseline = runs("a", [0.60, 0.61, 0.59])
    found = row(compare(baseline, runs("b", [0.63, 0.642, 0.618])), "gqa")
    assert found.change == pytest.approx(3.0) and found.noise == "seeds" and found.is_significant
    assert found.to_dict()["baseline"] == {"mean": pytest.approx(60.0), "sd": pytest.approx(1.0),
                                           "values": pytest.approx([60.0, 61.0, 59.0])}  # fmt: skip
    noise = row(compare(baseline, runs("c", [0.61, 0.60, 0.605])), "gqa")
    assert noise.is_significant is False and noise.verdict == "not significant"
    uneven = row(compare(baseline, runs("d", [0.61])), "gqa")
    assert uneven.interval_95 is None and "single run" in uneven.notes[0]
    assert "Welch" in row(compare(baseline, runs("e", [0.61, 0.62])), "gqa").test


def test_evaluations_are_paired_by_recorded_seed(tmp_path) -> None:
    """Named in another order: the interval is that of the paired seeds, 1, 1.1 and 0.9 points."""

    def runs(name: str, vista: dict, by_seed: dict[int, float]) -> list[str]:
        folders = []
        for seed, value in by_seed.items():
            folder = write_training(tmp_path / f"{name}{seed}", vista=vista, arguments={"seed": seed})
            folders.append(str(write_lmms(folder, {"gqa": {"exact_match": (value, None)}})))
        return folders

    baseline = runs("a", {"weight": 0.0}, {1: 0.50, 2: 0.60, 3: 0.70})
    result = compare(baseline, runs("b", {}, {3: 0.709, 1: 0.51, 2: 0.611}))
    found = row(result, "gqa")
    half = 4.30265 * 0.1 / 3**0.5
    assert found.interval_95 == pytest.approx((1 - half, 1 + half), rel=1e-5)
    assert found.test == "paired t over seeds" and [run.seed for run in result.training.vista] == [1, 2, 3]
    other = compare([f"{folder}/llava-v1.5-7b" for folder in baseline],
                    runs("c", {}, {4: 0.709, 5: 0.51, 6: 0.611}))  # fmt: skip
    assert row(other, "gqa").test == "paired t over seeds, in the order named"  # the baseline's are not recorded here
    assert "Welch" in row(compare(baseline, runs("d", {}, {4: 0.709, 5: 0.51, 6: 0.611})), "gqa").test


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
