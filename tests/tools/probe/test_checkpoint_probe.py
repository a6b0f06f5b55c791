"""The probe on analytic models whose answer is known (see `analytic`), through the command line."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import analytic
import pytest
from analytic import ENTROPY, PIXELS, surprise, write_checkpoint, write_data

from llava_vista import register_adapter
from llava_vista.adapters import ADAPTERS
from llava_vista.cli import main
from llava_vista.tools.probe.hosts import HOSTS

pytestmark = pytest.mark.environments("latest")


@pytest.fixture(autouse=True)
def family() -> Iterator[None]:
    """The analytic family is known, as a third party would make it known."""
    register_adapter("analytic")(analytic.AnalyticAdapter)
    HOSTS.append(analytic.AnalyticHost)
    yield
    ADAPTERS.remove("analytic")
    HOSTS.remove(analytic.AnalyticHost)


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second or two: only the tests of the figure pay for it."""
    if "figure" not in request.node.name:
        monkeypatch.setattr("llava_vista.tools.probe.record_comparison.draw_comparison", lambda result, folder: [])


def probe(tmp_path: Path, *checkpoints: Path, data: Path, **options: object) -> list[dict]:
    """Run the command on the measures that an analytic model has; the records of comparison.json."""
    words = [str(checkpoint) for checkpoint in checkpoints]
    chosen = {"measures": "information", "batch-size": 16, **{k.replace("_", "-"): v for k, v in options.items()}}
    for name, value in chosen.items():
        words += [f"--{name}", *str(value).split()]
    assert main(["probe", *words, "--data", str(data), "--output", str(tmp_path / "out")]) == 0
    return json.loads((tmp_path / "out" / "comparison.json").read_text())["records"]


def binned(known: list[list[float]], first: int, last: int) -> list[list[float]]:
    """The values at positions first to last, of the samples that reach them."""
    return [values for sample in known if (values := sample[first - 1 : last])]


def test_a_model_that_ignores_its_image_has_no_visual_information(tmp_path) -> None:
    data = write_data(tmp_path / "data", 60)
    (record,) = probe(tmp_path, write_checkpoint(tmp_path / "a", 0), data=data)
    assert all(one["low"] <= 0 <= one["high"] for one in record["curves"]["information"])
    assert record["information"]["value"] == pytest.approx(0, abs=1e-6)
    assert record["slope"]["value"] == pytest.approx(0, abs=1e-6)


def test_a_model_that_copies_its_image_is_flat_at_the_entropy(tmp_path) -> None:
    data = write_data(tmp_path / "data", 150)
    (record,) = probe(tmp_path, write_checkpoint(tmp_path / "copier", PIXELS), data=data)
    known, curve = surprise(data), record["curves"]["information"]
    for number, (first, last) in enumerate(((1, 1), (2, 2), (3, 4), (5, 8), (9, 16))):
        there = binned(known, first, last)
        mean = sum(map(sum, there)) / sum(map(len, there))
        assert curve[number]["n"] == len(there)
        assert curve[number]["value"] == pytest.approx(mean, abs=1e-5)  # of these samples, exactly
    assert len(curve) == 5
    tokens = [value for sample in known for value in sample]
    mean = record["information"]
    assert mean["value"] == pytest.approx(sum(tokens) / len(tokens), abs=1e-5)
    # of the attribute in general, within the interval
    assert mean["low"] < ENTROPY < mean["high"]
    assert mean["high"] - mean["low"] < 0.2 * ENTROPY
    assert record["slope"]["low"] < 0 < record["slope"]["high"]
    assert sum(one["low"] <= ENTROPY <= one["high"] for one in curve) >= 4  # a pointwise 95% band


def test_a_model_cut_after_four_tokens_drops_there(tmp_path) -> None:
    data = write_data(tmp_path / "data", 60)
    (record,) = probe(tmp_path, write_checkpoint(tmp_path / "cut", 4), data=data)
    curve = record["curves"]["information"]
    assert all(one["low"] > 0.5 * ENTROPY for one in curve[:3])
    assert [one["value"] for one in curve[3:]] == pytest.approx([0, 0], abs=1e-6)
    assert record["slope"]["high"] < 0


def test_two_checkpoints_share_one_figure_and_are_paired(tmp_path, capsys) -> None:
    data = write_data(tmp_path / "data", 20)
    folders = [write_checkpoint(tmp_path / name / "finetune", reach) for name, reach in (("a", 12), ("b", 2))]
    first, second = probe(tmp_path, *folders, data=data)
    assert (first["name"], second["name"]) == ("a", "b")
    assert (tmp_path / "out" / "probe.png").read_bytes().startswith(b"\x89PNG")
    names = {path.stem for path in (tmp_path / "out").glob("*.pdf")}
    assert names == {f"probe{name}" for name in ("", "-information", "-difference", "-margin", "-own-first", "-cosine")}
    known = surprise(data)
    lost = [sum(sample[2:]) for sample in known]
    mean = -sum(lost) / sum(map(len, known))
    assert second["difference"]["information"]["value"] == pytest.approx(mean, abs=1e-5)
    assert second["difference"]["samples"] == 20
    # the file of both is a record, too: against itself nothing differs
    again = [str(tmp_path / "out" / "probe.json"), "--output", str(tmp_path / "again"), "--names", "x"]
    assert main(["probe", *again]) == 0
    found = json.loads((tmp_path / "again" / "comparison.json").read_text())["records"]
    assert [one["name"] for one in found] == ["x/a", "x/b"]
    assert found[1]["difference"] == second["difference"]
    assert "less x/a: information" in capsys.readouterr().out


def test_without_matplotlib_there_are_numbers_but_no_figure(tmp_path, monkeypatch, caplog) -> None:
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "matplotlib" else find(name, *more))
    probe(tmp_path, write_checkpoint(tmp_path / "a", 3), data=write_data(tmp_path / "data", 5))
    assert "pip install 'llava-vista[plots]'" in caplog.text
    assert not (tmp_path / "out" / "probe.png").exists()


def test_the_model_writes_its_own_answers_where_there_are_none(tmp_path, caplog) -> None:
    data = write_data(tmp_path / "data", 20, answers=False)
    checkpoint = write_checkpoint(tmp_path / "copier", PIXELS)
    (item,) = probe(tmp_path, checkpoint, data=data, max_new_tokens=5)
    assert item["answers"] == "the model's own, greedy"
    # cut off at five words: that the fifth is the last label is taken back
    assert item["tokens"] == 20 * 4
    assert "writes its own" in caplog.text
    assert main(["probe", str(checkpoint), "--images", str(data.parent), "--measures", "information", "--output",
                 str(tmp_path / "folder")]) == 0  # fmt: skip
    (folder,) = json.loads((tmp_path / "folder" / "comparison.json").read_text())["records"]
    assert folder["samples"] == 20
    assert folder["information"]["value"] > 0.5 * ENTROPY


def test_visual_words_have_a_mean_of_their_own(tmp_path) -> None:
    data = write_data(tmp_path / "data", 40)
    records = json.loads(data.read_text())
    for record in records:
        record["conversations"][1]["visual"] = ["3"]
    data.write_text(json.dumps(records))
    (item,) = probe(tmp_path, write_checkpoint(tmp_path / "a", PIXELS), data=data)
    threes = sum(record["conversations"][1]["value"].split().count("3") for record in records)
    (record,) = json.loads((tmp_path / "out" / "probe.json").read_text())["records"]
    assert sum(sample["visual_tokens"] for sample in record["samples"]) == threes > 5
    assert item["visual_words"]["value"] == pytest.approx(math.log(8), abs=1e-5)
    assert item["other_words"]["value"] < ENTROPY


def test_samples_are_drawn_by_the_seed(tmp_path) -> None:
    data = write_data(tmp_path / "data", 40)
    checkpoint = write_checkpoint(tmp_path / "a", PIXELS)
    first = probe(tmp_path, checkpoint, data=data, samples=10)
    again = probe(tmp_path, checkpoint, data=data, samples=10)
    other = probe(tmp_path, checkpoint, data=data, samples=10, seed=1)
    assert first == again != other
    assert first[0]["samples"] == 10


def test_batches_of_another_size_change_nothing(tmp_path) -> None:
    data = write_data(tmp_path / "data", 11)
    checkpoint = write_checkpoint(tmp_path / "a", 5)
    one = probe(tmp_path, checkpoint, data=data, batch_size=1)
    four = probe(tmp_path, checkpoint, data=data, batch_size=4)
    for (key, value), other in zip(one[0]["curves"].items(), four[0]["curves"].values(), strict=True):
        for left, right in zip(value, other, strict=True):
            assert left == pytest.approx(right, abs=1e-6), key


# --- what a user can get wrong ---


def fails(capsys, *words: object) -> str:
    """Run the command; it must end with exit code 2 and a message, which is returned."""
    assert main(["probe", *[str(word) for word in words]]) == 2
    return capsys.readouterr().err


def test_bad_data_is_named(tmp_path, capsys) -> None:
    checkpoint = write_checkpoint(tmp_path / "a", 3)
    data = write_data(tmp_path / "data", 4)
    out = ("--output", tmp_path / "out", "--measures", "information")
    assert "nothing.json is not a file" in fails(capsys, checkpoint, "--data", tmp_path / "nothing.json", *out)
    assert "nothing to probe" in fails(capsys, checkpoint, *out)
    assert "is not a folder" in fails(capsys, checkpoint, "--images", tmp_path / "nowhere", *out)
    (tmp_path / "empty").mkdir()
    assert "holds no image" in fails(capsys, checkpoint, "--images", tmp_path / "empty", *out)

    def with_records(change) -> str:
        records = json.loads(data.read_text())
        changed = [change(record) or record for record in records]
        path = data.parent / "changed.json"
        path.write_text(json.dumps(changed))
        return fails(capsys, checkpoint, "--data", path, *out)

    assert "4 without an image" in with_records(lambda record: record.pop("image") and None)
    message = with_records(lambda record: record.update(image="gone.png"))
    assert "4 of 4 images are missing" in message and "gone.png" in message and "r0" in message
    message = with_records(lambda record: record["conversations"][1].update(value="  "))
    assert "4 with an empty answer" in message
    system = {"from": "system", "value": "x"}
    assert "must alternate" in with_records(lambda record: record["conversations"].append(system))
    assert "neither `conversations` nor `text`" in with_records(lambda record: {"image": "0.png"})
    assert "`visual` must be a list" in with_records(lambda record: record["conversations"][1].update(visual="red"))
    (tmp_path / "data" / "broken.json").write_text("[{")
    assert "is not JSON" in fails(capsys, checkpoint, "--data", tmp_path / "data" / "broken.json", *out)
    (tmp_path / "data" / "0.png").write_text("not a picture")
    assert "0.png cannot be read as an image" in fails(capsys, checkpoint, "--data", data, *out)


def test_bad_checkpoints_are_named(tmp_path, capsys) -> None:
    data = write_data(tmp_path / "data", 4)
    out = ("--data", data, "--output", tmp_path / "out", "--measures", "information")
    assert "holds no config.json" in fails(capsys, tmp_path / "nowhere", *out)
    unknown = write_checkpoint(tmp_path / "unknown", 3, architectures=["NobodyForCausalLM"])
    message = fails(capsys, unknown, *out)
    assert "NobodyForCausalLM" in message and "analytic (Reader)" in message and "LlavaLlamaForCausalLM" in message
    good = write_checkpoint(tmp_path / "good", 3)
    assert "given twice" in fails(capsys, good, good, *out)
    assert "a name of its own" in fails(capsys, good, unknown, *out, "--names", "one")
    with pytest.raises(SystemExit, match="2"):
        fails(capsys, good, *out, "--samples", "0")
    assert "argument --samples: 0: expected 1 or more" in capsys.readouterr().err
    assert "--device gpu" in fails(capsys, good, *out, "--device", "gpu")


def test_logits_that_are_not_finite_stop_the_probe(tmp_path, capsys) -> None:
    data = write_data(tmp_path / "data", 4)
    broken = write_checkpoint(tmp_path / "broken", 3, broken=True)
    message = fails(capsys, broken, "--data", data, "--output", tmp_path / "out", "--measures", "information")
    assert "the model's logits are NaN" in message


def test_missing_timm_is_named(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    data = write_data(tmp_path / "data", 4)
    message = fails(capsys, write_checkpoint(tmp_path / "a", 3), "--data", data, "--output", tmp_path / "out",
                    "--tower", "vit_small_patch14_dinov2")  # fmt: skip
    assert "pip install 'llava-vista[timm]'" in message
