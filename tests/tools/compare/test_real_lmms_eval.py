"""Results that lmms-eval itself wrote (lmms_eval_results/): what may be compared, and the numbers by literal counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compare_files import row

from llava_vista.tools.compare.comparison import Comparison, compare
from llava_vista.tools.kit.lmms_eval import digest
from llava_vista.tools.kit.statistics import mcnemar_exact

pytestmark = pytest.mark.environments("latest")

RESULTS = Path(__file__).parent / "lmms_eval_results"


def of(*names: str) -> Comparison:
    return compare(*([str(RESULTS / name)] for name in names))


def lines(name: str) -> list[dict]:
    (path,) = (RESULTS / name).glob("*/*_samples_scenes.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("release", ["", "-0.3"])
def test_two_arms_of_one_release(release) -> None:
    result = of(f"baseline{release}", f"vista{release}")
    assert result.is_complete, (result.problems, result.not_compared)
    before, after = ([line["exact_match"] for line in lines(f"{arm}{release}")] for arm in ("baseline", "vista"))
    found = row(result, "scenes")
    assert (found.baseline[0], found.vista[0]) == pytest.approx((100 * sum(before) / 24, 100 * sum(after) / 24))
    assert sum(before) > 0 and before != after
    gained = sum(b < a for b, a in zip(before, after, strict=True))
    lost = sum(b > a for b, a in zip(before, after, strict=True))
    assert found.p == pytest.approx(mcnemar_exact(gained, lost)) and found.questions == 24
    assert found.change == pytest.approx(100 * (gained - lost) / 24)
    assert found.interval_95[0] < found.change < found.interval_95[1]


def test_both_releases_gave_the_same_answers_and_hash_the_same_prompts() -> None:
    old, new = lines("vista-0.3"), lines("vista")
    assert [line["exact_match"] for line in old] == [line["exact_match"] for line in new]
    assert [line["prompt_hash"] for line in old] == [digest(line["input"]) for line in new]


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("vista-0.3", "scenes: lmms-eval generation is 0.7 in the baseline, 0.3 with VISTA"),
        ("limit", "scenes: limit is none in the baseline, 12 with VISTA"),
        ("repeats", "scenes: repeats is 1 in the baseline, 3 with VISTA"),
        (
            "wrapper",
            "scenes: model wrapper is lmms_eval.models.simple.llava.Llava (simple) in the baseline, "
            "lmms_eval.models.simple.from_log.FromLog (simple) with VISTA",
        ),
    ],
)
def test_another_condition_is_another_task(other, reason) -> None:
    result = of("baseline", other)
    assert not result.scores.rows and not result.is_complete
    assert [text.startswith(reason) for text in result.not_compared] == [True], result.not_compared


def test_an_unscored_task_is_named_and_the_rest_is_compared() -> None:
    result = of("baseline", "unscored")
    assert not result.is_complete and "scenes_server is not scored (it has no metric)" in result.problems[0]
    assert row(result, "scenes").vista == row(of("baseline", "vista"), "scenes").vista


def test_several_arms() -> None:
    result = of("baseline", "vista", "limit")
    assert [found.arm for found in result.scores.rows] == ["vista"]
    assert "12 with limit" in result.not_compared[0]
