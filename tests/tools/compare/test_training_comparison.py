"""Two training output directories: only VISTA may differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compare_files import write_training

from llava_vista.tools.compare.comparison import Comparison, compare
from llava_vista.tools.compare.training_conditions import DIFFERS, SAME, UNKNOWN
from llava_vista.tools.kit.training_folder import read_training

pytestmark = pytest.mark.environments("latest")

OBSERVED = {"weight": 0.0}


def pair(tmp_path: Path, baseline: dict | None = None, vista: dict | None = None) -> Comparison:
    before = write_training(tmp_path / "base", **{"vista": OBSERVED, "arguments": {}, **(baseline or {})})
    after = write_training(tmp_path / "vista", **{"vista": {}, "arguments": {}, **(vista or {})})
    return compare([str(before)], [str(after)])


def refusals(comparison: Comparison) -> str:
    assert comparison.trainings
    return "\n".join(comparison.trainings[0].refusals)


def statuses(comparison: Comparison) -> dict[str, str]:
    assert comparison.trainings
    return {check.name: check.status for check in comparison.trainings[0].checks}


def test_only_vista_differs(tmp_path) -> None:
    result = pair(tmp_path, vista={"ce": [1.0 + 1.0 / (1 + step) - 0.01 for step in range(40)]})
    # the first step's cross-entropy is 0.5% lower, which rounding and kernels could not do
    assert "cross-entropy of the first step" in refusals(result)
    result = pair(tmp_path / "2", vista={"ce": [2.0, *(1.0 + 1.0 / (1 + s) - 0.01 for s in range(1, 40))]})
    assert result.is_complete, refusals(result)
    assert set(statuses(result).values()) == {SAME}
    row = result.trainings[0].rows[0]
    assert row.change == pytest.approx(-0.01) and row.unit == "nats per token"
    assert row.baseline[0] == pytest.approx(sum(1 + 1 / (1 + s) for s in range(36, 40)) / 4)
    assert row.p is None and row.verdict == "n/a"


def test_cross_entropy_is_not_the_sum(tmp_path) -> None:
    """VISTA's ce_loss stands against a plain baseline's loss."""
    result = pair(tmp_path, baseline={"vista": None, "arguments": None})
    assert result.trainings[0].rows[0].change == 0
    steps, values = result.trainings[0].vista[0].series("ce_loss")
    assert (steps[0], values[0]) == (1, 2.0)
    assert result.trainings[0].baseline[0].series("vista_loss") == ([], [])


@pytest.mark.parametrize(
    ("baseline", "named"),
    [
        ({"arguments": {"seed": 1}}, "seed: seed is 1 in the baseline, 42 with VISTA"),
        ({"arguments": {"gradient_accumulation_steps": 2}}, "gradient_accumulation_steps is 2 in the baseline, 1"),
        ({"arguments": {"weight_decay": 0.1}}, "weight_decay"),
        ({"train_batch_size": 8}, "train_batch_size (per device) is 8 in the baseline, 16 with VISTA"),
        ({"total_flos": 2e9}, "tokens seen"),
        ({"num_train_epochs": 2}, "num_train_epochs (trainer_state.json) is 2"),
        ({"global_step": 39}, "steps trained is 39"),
    ],
)
def test_a_difference_is_named_and_refused(tmp_path, baseline, named) -> None:
    result = pair(tmp_path, baseline=baseline)
    assert named in refusals(result)
    assert not result.is_complete
    assert not result.trainings[0].rows  # no change is stated
    assert sum(status == DIFFERS for status in statuses(result).values()) == 1


def test_another_learning_rate_is_seen_in_the_log(tmp_path) -> None:
    before, after = write_training(tmp_path / "a"), write_training(tmp_path / "b", vista={})
    path = before / "trainer_state.json"
    state = json.loads(path.read_text())
    for record in state["log_history"]:
        if record.get("step", 0) > 10 and "learning_rate" in record:
            record["learning_rate"] *= 1.1
    path.write_text(json.dumps(state))
    assert "at step 11" in refusals(compare([str(before)], [str(after)]))


def test_other_data_model_and_lora_are_seen(tmp_path) -> None:
    before, after = (write_training(tmp_path / name, vista=vista, arguments={})
                     for name, vista in (("a", OBSERVED), ("b", {})))  # fmt: skip
    record = json.loads((before / "vista.json").read_text())
    record["data"]["data_path"] = "other.json"
    record["versions"]["torch"] = "2.2.0"
    (before / "vista.json").write_text(json.dumps(record))
    (before / "config.json").write_text(json.dumps({"model_type": "llava_llama", "hidden_size": 128, "extra": 1}))
    (after / "adapter_config.json").write_text(json.dumps({"r": 128, "target_modules": ["k", "q"]}))
    text = refusals(compare([str(before)], [str(after)]))
    for named in ("data_path is other.json", "torch is 2.2.0", "hidden_size is 128", "extra is 1", "r is null"):
        assert named in text


def test_what_is_not_recorded_is_said(tmp_path) -> None:
    """A plain baseline has no vista.json, so nothing is claimed about its seed and data; no pickle is opened."""
    before = write_training(tmp_path / "base")
    (before / "training_args.bin").write_bytes(b"\x80\x04this would be code")
    after = write_training(tmp_path / "vista", vista={}, arguments={})
    result = compare([str(before)], [str(after)])
    assert result.is_complete
    found = statuses(result)
    for name in ("seed", "data_path", "world_size", "gradient_accumulation_steps"):
        assert found[name] == UNKNOWN
    assert found["train_batch_size (per device)"] == SAME
    assert any("--vista_weight 0" in note and str(before) in note for note in result.trainings[0].notes)


def test_arms_that_are_swapped_or_the_same(tmp_path) -> None:
    plain, vista = write_training(tmp_path / "a"), write_training(tmp_path / "b", vista={})
    assert "are the two swapped?" in refusals(compare([str(vista)], [str(plain)]))
    assert "VISTA does not differ" in refusals(compare([str(vista)], [str(write_training(tmp_path / "c", vista={}))]))
    other = write_training(tmp_path / "d", vista={"method": "cosine"})
    result = compare([str(vista)], [str(other)])  # two settings of VISTA are a fair question
    assert result.is_complete and any("two settings" in note for note in result.trainings[0].notes)


def test_seeds(tmp_path) -> None:
    def run(name: str, vista: dict, seed: int, shift: float) -> str:
        values = [1.0 + 1.0 / (1 + step) + shift for step in range(40)]
        return str(write_training(tmp_path / name, vista=vista, arguments={"seed": seed}, ce=values))

    baseline = [run(f"a{seed}", OBSERVED, seed, shift) for seed, shift in ((0, 0.0), (1, 0.02), (2, -0.02))]
    vista = [run(f"b{seed}", {}, seed, shift) for seed, shift in ((0, -0.1), (1, -0.08), (2, -0.121))]
    result = compare(baseline, vista)
    assert result.is_complete, refusals(result)
    row = result.trainings[0].rows[0]
    assert row.change == pytest.approx(-0.1003333)
    assert row.test == "paired t over seeds" and row.is_significant and row.verdict == "lower"
    assert [item.seed for item in result.trainings[0].vista] == [0, 1, 2]
    assert "seed: seed is 0 / 1 in the baseline, 0 / 1 / 2" in refusals(compare(baseline[:2], vista))
    assert "same seed more than once" in refusals(
        compare([*baseline[:2], run("a0b", OBSERVED, 0, 0.01)], [*vista[:2], run("b0b", {}, 0, 0.01)])
    )


def test_noise_between_seeds_is_no_result(tmp_path) -> None:
    arms = []
    for arm, shifts in (("a", (0.0, 0.05, -0.05)), ("b", (0.04, -0.06, 0.03))):
        arms.append([
            str(write_training(tmp_path / f"{arm}{seed}", vista=OBSERVED if arm == "a" else {},
                               arguments={"seed": seed}, ce=[1.0 + shift] * 40))
            for seed, shift in enumerate(shifts)
        ])  # fmt: skip
    row = compare(*arms).trainings[0].rows[0]
    assert row.is_significant is False and row.verdict == "not significant"
    assert row.interval_95[0] < 0 < row.interval_95[1]


def test_the_newest_checkpoint_serves_when_the_top_has_none(tmp_path) -> None:
    before = write_training(tmp_path / "a", in_checkpoint=40)
    old = before / "checkpoint-9"
    old.mkdir()
    (old / "trainer_state.json").write_text("{}")
    result = compare([str(before)], [str(write_training(tmp_path / "b", vista={}))])
    assert result.is_complete and len(result.trainings[0].baseline[0].log) == 40


def test_bad_directories_are_named_and_the_rest_goes_on(tmp_path) -> None:
    good = str(write_training(tmp_path / "good", vista={}))
    empty, unfinished, cut, nested = (tmp_path / name for name in ("empty", "unfinished", "cut", "nested"))
    empty.mkdir()
    (write_training(unfinished, vista={}) / "trainer_state.json").unlink()
    path = write_training(cut) / "trainer_state.json"
    path.write_text(path.read_text()[:200])
    write_training(nested / "finetune")
    result = compare([str(empty), str(unfinished), str(cut), str(nested)], [good])
    problems = "\n".join(result.problems)
    for named in (f"{empty} holds nothing to compare", f"{unfinished} has no trainer_state.json",
                  f"{path} is not complete JSON", "Did you mean one of its folders: finetune?"):  # fmt: skip
        assert named in problems
    assert not result.is_complete
    broken = write_training(tmp_path / "broken")
    (broken / "config.json").write_text("{")
    result = compare([str(broken)], [good])
    assert ["config.json is not complete JSON" in problem for problem in result.problems] == [True]  # named once
    assert result.trainings


def edit(folder: Path, name: str, **changes: object) -> None:
    """Change a part (dotted with __) of a JSON file of a training."""
    content = json.loads((folder / name).read_text())
    for key, value in changes.items():
        *path, last = key.split("__")
        part = content
        for step in path:
            part = part[step]
        part[last] = value
    (folder / name).write_text(json.dumps(content))


def test_a_record_of_another_training_is_not_believed(tmp_path) -> None:
    """Two plain trainings, one of them in a directory that has the vista.json of an earlier one."""
    plain, again = write_training(tmp_path / "a"), write_training(tmp_path / "b")
    stale = write_training(tmp_path / "c", vista={}, arguments={}) / "vista.json"
    (again / "vista.json").write_text(stale.read_text())
    result = compare([str(plain)], [str(again)])
    assert "the VISTA arm was not trained with VISTA (off)" in refusals(result)
    assert any(f"{again}/vista.json is not of the training" in problem for problem in result.problems)
    assert not result.is_complete and result.trainings[0].vista[0].seed is None


@pytest.mark.parametrize(
    ("written", "edited", "named"),
    [
        ({"weight": 0.0}, {"config__weight": 1.0}, "records the weight 1, and loss and ce_loss of the log are equal"),
        (
            {"weight": 0.5},
            {"config__weight": 0.0},
            "records the weight 0, and loss and ce_loss of the log differ by 0.5",
        ),
        ({}, {"training_arguments__learning_rate": 1e-5}, "records the learning rate 1e-05, and the log has 1.95e-05"),
        ({}, {"training_arguments__max_steps": 50}, "records max_steps 50, and trainer_state.json has 40"),
    ],
)
def test_a_record_that_contradicts_the_log_is_named(tmp_path, written, edited, named) -> None:
    folder = write_training(tmp_path / "a", vista=written, arguments={})
    assert not read_training(folder).problems
    edit(folder, "vista.json", **edited)
    run = read_training(folder)
    assert named in run.problems[0] and run.record is None
    assert (run.vista is None) == (not run.is_observed)


def test_values_that_are_not_finite_are_counted(tmp_path) -> None:
    before = write_training(tmp_path / "a", ce=[float("nan"), *[1.0] * 38, float("inf")])
    after = write_training(tmp_path / "b", vista={}, ce=[1.0] * 40)
    result = compare([str(before)], [str(after)])
    assert result.trainings[0].baseline[0].series("ce_loss")[0] == list(range(2, 40))
    assert result.trainings[0].rows[0].change == 0
    note = f"{before}: ce_loss is NaN or infinite in 2 of 40 records (steps 1 to 40)"
    assert any(note in item for item in result.trainings[0].notes)
    nothing = write_training(tmp_path / "c", ce=[1.0] * 3 + [float("nan")] * 37)
    result = compare([str(nothing)], [str(after)])
    assert "share 3 logged steps, the last of them 3 of 40" in result.not_compared[0]
    assert not result.trainings[0].rows and not result.is_complete


def test_the_first_record_is_not_taken_for_the_end(tmp_path) -> None:
    """logging_steps 10 and 9 with logging_first_step: only step 1 is in both logs."""
    folders = []
    for name, vista, every in (("a", None, 10), ("b", {}, 9)):
        folder = write_training(tmp_path / name, vista=vista)
        log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        edit(folder, "trainer_state.json",
             log_history=[entry for entry in log if entry["step"] == 1 or entry["step"] % every == 0])  # fmt: skip
        folders.append(str(folder))
    result = compare(folders[:1], folders[1:])
    assert "share 1 logged steps, the last of them 1 of 36" in result.not_compared[0]
    assert not result.is_complete
