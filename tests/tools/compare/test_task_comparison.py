"""Evaluations of two arms: what may be compared, published numbers, verdicts, averages and seeds."""

from __future__ import annotations

import pytest
from compare_files import AFTER, BEFORE, arms, row, scored, write_llava, write_lmms, write_training

from llava_vista.tools.compare.comparison import compare
from llava_vista.tools.kit.evaluation_scores import LLAVA_SCRIPTS, LMMS_EVAL
from llava_vista.tools.kit.statistics import mcnemar_exact

pytestmark = pytest.mark.environments("latest")


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
    assert row(result, "task0").verdict == "no question differs"
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


def test_seeds_with_the_same_change_are_no_proof(tmp_path) -> None:
    """Scores of 100 questions are whole percents, so that two seeds often change by the same."""
    runs = {
        arm: [str(write_lmms(tmp_path / f"{arm}{seed}", {"gqa": {"exact_match": (value, None)}}))
              for seed, value in enumerate(values)]
        for arm, values in (("a", (0.68, 0.67)), ("b", (0.65, 0.64)))
    }  # fmt: skip
    found = row(compare(runs["a"], runs["b"]), "gqa")
    assert found.change == pytest.approx(-3.0)
    assert (found.interval_95, found.p, found.verdict) == (None, None, "n/a")
    assert "the seeds show no spread, so the noise between seeds is not known." in found.notes


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
    assert found.test == "paired t over seeds" and [run.seed for run in result.trainings[0].vista] == [1, 2, 3]
    other = compare([f"{folder}/llava-v1.5-7b" for folder in baseline],
                    runs("c", {}, {4: 0.709, 5: 0.51, 6: 0.611}))  # fmt: skip
    assert row(other, "gqa").test == "paired t over seeds, in the order named"  # the baseline's are not recorded here
    assert "Welch" in row(compare(baseline, runs("d", {}, {4: 0.709, 5: 0.51, 6: 0.611})), "gqa").test


@pytest.mark.parametrize(("questions", "bound"), [(12, 22.09), (100, 2.95), (5000, 0.0599)])
def test_no_question_differs_is_not_equal(tmp_path, questions, bound) -> None:
    """0% in both arms: the interval is the exact binomial bound on questions that differ, "rule of three" for many."""
    task = {"gqa": {"exact_match": scored([0.0] * questions)}}
    result = arms(tmp_path, task, task)
    found = row(result, "gqa")
    assert found.interval_95 == pytest.approx((-bound, bound), rel=1e-3) and found.p == 1.0
    assert found.verdict == "no question differs" and found.is_significant is False
    assert result.headlines()[1] == "Of 1 tested headline numbers: 1 where no question differs."
    graded = {"llava": {"score": scored([0.3, 0.7, 0.7])}}  # no bound is known for such scores
    found = row(arms(tmp_path / "2", graded, graded), "llava")
    assert found.interval_95 is None and found.verdict == "no question differs"
