"""More than two arms in one report: every arm against the baseline, adjusted together; and whether VISTA aligned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from compare_files import AFTER, BEFORE, entry_mean, scored, write_lmms, write_training

from llava_vista import cli
from llava_vista.tools.compare.comparison import Comparison, compare
from llava_vista.tools.kit.statistics import holm, mcnemar_exact
from llava_vista.tools.kit.training_folder import means_at_both_ends

pytestmark = pytest.mark.environments("latest")

ARMS = {"base": {"weight": 0.0}, "l2": {}, "l2-low": {"weight": 0.1}, "cosine": {"method": "cosine"}}


def write_arms(tmp_path: Path, seeds: int = 1) -> dict[str, list[str]]:
    """Trainings and evaluations of four arms; l2 answers more questions, the last learned with another rate."""
    folders: dict[str, list[str]] = {}
    for name, vista in ARMS.items():
        for seed in range(seeds):
            folder = write_training(tmp_path / f"{name}{seed}", vista=vista, arguments={"seed": seed})
            entries = AFTER if name == "l2" else BEFORE
            write_lmms(folder, {"gqa": {"exact_match": scored(entries)}, "ai2d": {"exact_match": scored(BEFORE)}})
            folders.setdefault(name, []).append(str(folder))
    return folders


def test_every_arm_is_compared_with_the_baseline(tmp_path, capsys) -> None:
    runs = write_arms(tmp_path)
    folders = [run for arm in runs.values() for run in arm]
    assert cli.main(["compare", *folders, "--json", "-o", str(tmp_path / "r.md")]) == 0
    content = json.loads(capsys.readouterr().out)
    names = ["baseline", "l2 weight 1", "l2 weight 0.1", "cosine weight 1"]
    assert [arm["name"] for arm in content["arms"]] == names
    assert [training["arm"] for training in content["trainings"]] == names[1:]
    rows = {row["arm"]: row for row in content["scores"] if row["task"] == "gqa"}
    assert [rows[name]["change"] for name in names[1:]] == pytest.approx([10, 0, 0])
    p = [row["p"] for row in content["scores"] if row["main"]]
    assert p[0] == pytest.approx(mcnemar_exact(15, 5)) and len(p) == 6
    assert [row["p_holm"] for row in content["scores"] if row["main"]] == holm(p)  # over all arms
    assert content["headlines"][0] == (
        "Baseline against l2 weight 1, l2 weight 0.1, cosine weight 1: trainings (runs per arm: 1), 2 evaluated tasks."
    )
    assert content["headlines"][1].startswith("l2 weight 1: Of 2 tested headline numbers: ")
    markdown = (tmp_path / "r.md").read_text()
    assert markdown.count("Nothing that is recorded differs but VISTA.") == 1  # of all arms, so no arm is named
    assert "| gqa | l2 weight 0.1 |" in markdown and "| task | arm |" in markdown


def test_an_arm_that_is_no_comparison_does_not_hide_the_others(tmp_path) -> None:
    runs = write_arms(tmp_path)
    write_training(tmp_path / "other", vista={"method": "cosine"}, train_batch_size=8)
    result = compare(runs["base"], runs["l2"], [str(tmp_path / "other")])
    good, bad = result.trainings
    assert good.rows and not good.refusals and bad.refusals and not bad.rows and not result.is_comparable
    assert len(result.headlines()) == 2 and result.headlines()[1].startswith("l2 weight 1: ")


def test_seeds_of_several_arms(tmp_path) -> None:
    runs = write_arms(tmp_path, seeds=2)
    words = ["compare", "--baseline", *runs["base"], "--vista", *runs["l2"], "--vista", *reversed(runs["cosine"])]
    assert cli.main([*words, "--quiet"]) == 0
    result = compare(runs["base"], runs["l2"], list(reversed(runs["cosine"])))
    assert [[run.seed for run in training.vista] for training in result.trainings] == [[0, 1], [0, 1]]
    assert {row.test for row in result.scores.rows if row.main} == {"paired t over seeds"}


def test_arms_without_a_training_are_named_by_their_folders(tmp_path) -> None:
    folders = [write_lmms(tmp_path / name, {"gqa": {"m": (entry_mean(BEFORE), BEFORE)}}) for name in ("a", "b", "c")]
    again = write_lmms(tmp_path / "2" / "c", {"gqa": {"m": (0.5, None)}})
    result = compare(*([str(folder)] for folder in (*folders, again)))
    assert [arm.name for arm in result.arms] == ["baseline", "b", "c (2)", "c (3)"]
    assert all(row.change == 0 for row in result.scores.rows)


def aligned(
    tmp_path: Path, margin: tuple[float, float], own_first: tuple[float, float], chance: float = 0.0
) -> Comparison:
    """A training whose VISTA loss falls, with margin and own_first from one value to another; chance rises."""
    folders = []
    for name, vista in (("base", {"weight": 0.0}), ("vista", {})):
        folder = write_training(tmp_path / name, vista=vista)
        state = json.loads((folder / "trainer_state.json").read_text())
        for record in state["log_history"][:-1]:
            part = record["step"] / 40
            record["vista_margin"] = margin[0] + part * (margin[1] - margin[0])
            record["vista_own_first"] = own_first[0] + part * (own_first[1] - own_first[0])
            record["vista_own_first_chance"] = 0.0625 + part * chance
        (folder / "trainer_state.json").write_text(json.dumps(state))
        folders.append([str(folder)])
    return compare(*folders)


def test_a_loss_that_fell_without_alignment_is_said(tmp_path, capsys) -> None:
    result = aligned(tmp_path, (8e-5, 2e-5), (0.075, 0.069))
    (training,) = result.to_dict()["trainings"]
    assert training["alignment"] == (
        "The VISTA loss fell (0.495 -> 0.423) and the alignment with the own image did not rise (margin of the own "
        "text 7.63e-05 -> 2.22e-05; own text ranked first 0.0746 -> 0.0692 (chance 0.0625)): its fall is no sign of "
        "alignment."
    )
    assert cli.main(["compare", str(tmp_path / "base"), str(tmp_path / "vista")]) == 0
    assert "its fall is no sign of alignment" in " ".join(capsys.readouterr().out.split())
    curves = result.to_dict()["arms"][1]["trainings"][0]["curves"]
    assert {"vista_margin", "vista_own_first", "vista_own_first_chance"} <= curves.keys()


def test_a_loss_that_fell_with_alignment_is_no_matter(tmp_path) -> None:
    (training,) = aligned(tmp_path, (0.003, 0.056), (0.088, 0.652)).to_dict()["trainings"]
    assert training["alignment"] == ""


def test_being_first_among_fewer_is_no_alignment(tmp_path) -> None:
    (training,) = aligned(tmp_path, (2e-5, 3e-5), (0.07, 0.13), chance=0.08).to_dict()["trainings"]
    assert "did not rise" in training["alignment"]


def test_both_ends_of_a_short_log_share_no_record() -> None:
    assert means_at_both_ends([4.0, 1.0]) == (4.0, 1.0) and means_at_both_ends([2.0]) == (2.0, 2.0)
    assert means_at_both_ends([6.0, 4.0, 9.0, 2.0, 0.0]) == (5.0, 1.0)
    assert means_at_both_ends([1.0] * 50 + [2.0] * 50) == (1.0, 2.0)


def probed(folder: Path, base: float, slope: float) -> str:
    """Add what ``--vista_probe_steps 10`` logs to a training: information, rising by 0.01 each time, and its slope."""
    path = folder / "trainer_state.json"
    state = json.loads(path.read_text())
    for entry in state["log_history"][9:40:10]:
        entry |= {"vista_information": base + entry["step"] / 1000, "vista_information_slope": slope}
    path.write_text(json.dumps(state))
    return str(folder)


def test_the_information_of_the_image_is_compared_over_seeds(tmp_path, capsys) -> None:
    changes, runs = (0.1, 0.11, 0.09), {"a": [], "b": []}
    for seed, change in enumerate(changes):
        for name, vista, added in (("a", {"weight": 0.0}, 0.0), ("b", {}, change)):
            folder = write_training(tmp_path / f"{name}{seed}", vista=vista, arguments={"seed": seed})
            runs[name].append(probed(folder, 0.2 + seed / 10 + added, 0.001 * (1 + seed * added)))
    cross_entropy, information, slope = compare(runs["a"], runs["b"]).trainings[0].rows
    assert cross_entropy.change == 0 and cross_entropy.verdict == "n/a"
    assert information.metric == "mean of the last 3 records (steps 20 to 40)"
    assert information.baseline == pytest.approx([0.23, 0.33, 0.43])
    half = 4.30265 * 0.01 / 3**0.5
    assert information.interval_95 == pytest.approx((0.1 - half, 0.1 + half), rel=1e-4)
    assert information.verdict == "higher" and slope.change == pytest.approx(0.001 * (0.11 + 0.18) / 3)
    assert cli.main(["compare", "--baseline", *runs["a"], "--vista", *runs["b"]]) == 0
    assert "slope of that information" in capsys.readouterr().out


def test_information_measured_once_is_no_end(tmp_path) -> None:
    """As in the demo: the comparison is complete without it."""
    folders = []
    for name, vista in (("a", {"weight": 0.0}), ("b", {})):
        folder = write_training(tmp_path / name, vista=vista, arguments={})
        probed(folder, 0.2, 0.0)
        state = json.loads((folder / "trainer_state.json").read_text())
        for entry in state["log_history"][10:]:
            entry.pop("vista_information", None)
        (folder / "trainer_state.json").write_text(json.dumps(state))
        folders.append([str(folder)])
    result = compare(*folders)
    note = "information of the image: the trainings share 1 logged steps, the last of them 10 of 40, so their ends"
    assert result.is_complete and any(text.startswith(note) for text in result.trainings[0].notes)


def test_information_in_one_arm_only_is_named(tmp_path) -> None:
    base = write_training(tmp_path / "a", vista={"weight": 0.0})
    vista = probed(write_training(tmp_path / "b", vista={}), 0.2, 0.0)
    (training,) = compare([str(base)], [vista]).trainings
    assert len(training.rows) == 1
    assert "vista_information is not in the log of every run, so it is not compared" in training.notes
