"""Questions of two runs: how they are paired, and which aggregation gives the reported number."""

from __future__ import annotations

import random

import pytest
from compare_files import AFTER, BEFORE, arms, entry_mean, row, scored, write_lmms

from llava_vista.tools.compare.comparison import compare

pytestmark = pytest.mark.environments("latest")


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
