"""Result files of VLMEvalKit, written as its evaluators write them (pandas, every cell quoted)."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas
import pytest
from compare_files import row

from llava_vista.tools.compare.comparison import compare

pytestmark = pytest.mark.environments("latest")


def write_kit(folder: Path, model: str, tables: Mapping[str, Mapping[str, Sequence]], *, linked: bool = True) -> Path:
    """``{name after the model: columns}``; a name that ends in json is one object. Returns the model's folder."""
    run = folder / model / "T20260101_Gabc1234"
    run.mkdir(parents=True)
    for name, columns in tables.items():
        path = run / f"{model}_{name}"
        if path.suffix == ".json":
            path.write_text(json.dumps(columns))
        else:
            pandas.DataFrame(columns).to_csv(path, index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)
        if linked:
            (run.parent / path.name).symlink_to(path)
    (run / f"{model}_MMBench.xlsx").write_bytes(b"answers")
    return folder / model


def tables(shift: float = 0.0) -> dict[str, dict]:
    return {
        "MMBench_DEV_EN_acc.csv": {"split": ["dev"], "Overall": [0.641 + shift / 100], "AR": [0.70]},
        "TextVQA_VAL_acc.csv": {"Overall": [58.2 + shift]},
        "POPE_score.csv": {"split": ["Overall", "random"], "Overall": [86.1 + shift, 87.0], "acc": [86.9, 88.0]},
        "MME_score.csv": {"perception": [1510.5], "reasoning": [300.0]},
        "OCRBench_score.json": {"Text Recognition": 150, "Final Score": 313, "Final Score Norm": 31.3},
    }


@pytest.mark.parametrize("linked", [True, False])
def test_files_of_two_models(tmp_path, linked) -> None:
    before = write_kit(tmp_path, "llava_v1.5_7b", tables(), linked=linked)
    after = write_kit(tmp_path, "llava-vista", tables(2.0), linked=linked)
    result = compare([str(before)], [str(after)])
    assert result.is_complete, (result.problems, result.not_compared)
    found = row(result, "MMBench_DEV_EN (dev)", "Overall")
    assert (found.unit, found.baseline[0], found.change) == ("%", pytest.approx(64.1), pytest.approx(2))
    assert found.better and found.main and found.interval_95 is None and found.verdict == "n/a"
    assert not row(result, "MMBench_DEV_EN (dev)", "AR").main
    assert row(result, "TextVQA_VAL", "Overall").unit == "%"  # a percentage already
    assert row(result, "POPE (Overall)", "Overall").change == pytest.approx(2)
    assert not row(result, "POPE (random)", "Overall").main
    assert row(result, "OCRBench", "Final Score").baseline == [313.0]
    run = result.arms[0].evaluations[0]
    assert (run.model, run.date) == ("llava_v1.5_7b", "T20260101_Gabc1234")


def test_the_newest_run_and_the_run_that_is_named(tmp_path) -> None:
    model = write_kit(tmp_path, "m", {"X_acc.csv": {"Overall": [40.0]}}, linked=False)
    newer = model / "T20260202_Gdef5678"
    newer.mkdir()
    (newer / "m_X_acc.csv").write_text('"Overall"\n"50.0"\n')
    other = write_kit(tmp_path / "b", "n", {"X_acc.csv": {"Overall": [50.0]}})
    assert row(compare([str(model)], [str(other)]), "X").change == 0
    assert row(compare([str(model / "T20260101_Gabc1234")], [str(other)]), "X").change == 10


def test_what_cannot_be_read_is_named(tmp_path) -> None:
    good = write_kit(tmp_path, "m", {"X_acc.csv": {"Overall": [40.0]}})
    bad = write_kit(tmp_path / "b", "n", {"X_acc.csv": {"Overall": [41.0]}, "Y_acc.csv": {"Overall": ["None"]},
                                          "Z_score.json": {"Final Score": 1}})  # fmt: skip
    (bad / "T20260101_Gabc1234" / "n_Z_score.json").write_text("[1]")
    (bad / "other_X_acc.csv").write_text("Overall\n1\n")
    result = compare([str(good)], [str(bad)])
    problems = "\n".join(result.problems)
    assert "Y is not scored" in problems and "n_Z_score.json cannot be read (an object was expected)" in problems
    assert "other_X_acc.csv is not named after its folder's model, n" in problems and not result.is_complete
    assert row(result, "X").change == 1
