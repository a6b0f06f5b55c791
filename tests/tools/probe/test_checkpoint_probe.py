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
from llava_vista.tools.probe.hosts import HOSTS, register_host

pytestmark = pytest.mark.environments("latest")


@pytest.fixture(autouse=True)
def family() -> Iterator[None]:
    """The analytic family is known, as a third party would make it known."""
    register_adapter("analytic")(analytic.AnalyticAdapter)
    register_host("analytic")(analytic.AnalyticHost)
    yield
    ADAPTERS.remove("analytic")
    HOSTS.remove("analytic")


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second or two: only the tests of the figure pay for it."""
    if "figure" not in request.node.name:
        monkeypatch.setattr("llava_vista.tools.probe.checkpoint_probe.draw", lambda record, paths: None)


def probe(tmp_path: Path, *checkpoints: Path, data: Path, **options: object) -> dict:
    """Run the command on the measures that an analytic model has; what probe.json holds."""
    words = [str(checkpoint) for checkpoint in checkpoints]
    chosen = {"measures": "information", "batch-size": 16, **{k.replace("_", "-"): v for k, v in options.items()}}
    for name, value in chosen.items():
        words += [f"--{name}", *str(value).split()]
    assert main(["probe", *words, "--data", str(data), "--output", str(tmp_path / "out")]) == 0
    return json.loads((tmp_path / "out" / "probe.json").read_text())


def test_a_model_that_ignores_its_image_has_no_visual_information(tmp_path) -> None:
    data = write_data(tmp_path / "data", 60)
    for no_image in ("masked", "blank", "shuffled"):
        record = probe(tmp_path, write_checkpoint(tmp_path / no_image, 0), data=data, no_image=no_image)
        part = record["checkpoints"][0]["information"]
        assert part["no_image"].startswith(no_image)
        assert all(low <= 0 <= high for low, high in zip(part["curve"]["low"], part["curve"]["high"], strict=True))
        assert part["mean"]["value"] == pytest.approx(0, abs=1e-6)
        assert part["slope"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("no_image", ["masked", "blank"])
def test_a_model_that_copies_its_image_is_flat_at_the_entropy(tmp_path, no_image) -> None:
    data = write_data(tmp_path / "data", 150)
    record = probe(tmp_path, write_checkpoint(tmp_path / "copier", PIXELS), data=data, no_image=no_image)
    part = record["checkpoints"][0]["information"]
    known = surprise(data)
    for t in range(PIXELS):
        there = [sample[t] for sample in known if len(sample) > t]
        assert part["curve"]["n"][t] == len(there)
        assert part["curve"]["mean"][t] == pytest.approx(sum(there) / len(there), abs=1e-5)  # of these samples, exactly
    tokens = [value for sample in known for value in sample]
    assert part["mean"]["tokens"] == len(tokens)
    assert part["mean"]["value"] == pytest.approx(sum(tokens) / len(tokens), abs=1e-5)
    # of the attribute in general, within the interval
    assert part["mean"]["low"] < ENTROPY < part["mean"]["high"]
    assert part["mean"]["high"] - part["mean"]["low"] < 0.2 * ENTROPY
    assert part["slope"]["low"] < 0 < part["slope"]["high"]
    inside = [low <= ENTROPY <= high for low, high in zip(part["curve"]["low"], part["curve"]["high"], strict=True)]
    assert sum(inside) >= PIXELS - 2  # a pointwise 95% band


@pytest.mark.parametrize("no_image", ["masked", "blank", "shuffled"])
def test_a_model_cut_after_four_tokens_drops_there(tmp_path, no_image) -> None:
    data = write_data(tmp_path / "data", 60)
    record = probe(tmp_path, write_checkpoint(tmp_path / "cut", 4), data=data, no_image=no_image)
    part = record["checkpoints"][0]["information"]
    assert all(low > 0.5 * ENTROPY for low in part["curve"]["low"][:4])
    assert part["curve"]["mean"][4:] == pytest.approx([0] * (PIXELS - 4), abs=1e-6)
    assert part["slope"]["high"] < 0


def test_another_samples_image_misleads(tmp_path) -> None:
    """Believing a false image costs more than having none: SURE nats wherever the two images differ."""
    data = write_data(tmp_path / "data", 60)
    record = probe(tmp_path, write_checkpoint(tmp_path / "copier", PIXELS), data=data, no_image="shuffled")
    mean = record["checkpoints"][0]["information"]["mean"]["value"]
    differ = 1 - float((analytic.PRIOR**2).sum())
    assert mean == pytest.approx(differ * analytic.SURE, rel=0.1)


def test_two_checkpoints_share_one_figure(tmp_path) -> None:
    data = write_data(tmp_path / "data", 20)
    first, second = (write_checkpoint(tmp_path / name / "finetune", reach) for name, reach in (("a", 12), ("b", 2)))
    record = probe(tmp_path, first, second, data=data, measures="information alignment")
    assert [item["name"] for item in record["checkpoints"]] == ["a", "b"]
    assert (tmp_path / "out" / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "out" / "probe.svg").read_text()[:1000]
    for item in record["checkpoints"]:
        curve = item["alignment"]["l2"]["curve"]
        assert len(curve["x"]) == len(curve["n"]) == len(curve["low"])
        assert curve["confidence"] == 0.95


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
    record = probe(tmp_path, checkpoint, data=data, max_new_tokens=5)
    item = record["checkpoints"][0]
    assert item["answers"] == "the model's own, greedy"
    # cut off at five words: that the fifth is the last label is taken back
    assert len(item["information"]["curve"]["mean"]) == 4
    assert "writes its own" in caplog.text
    assert main(["probe", str(checkpoint), "--images", str(data.parent), "--measures", "information", "--output",
                 str(tmp_path / "folder")]) == 0  # fmt: skip
    folder = json.loads((tmp_path / "folder" / "probe.json").read_text())["checkpoints"][0]
    assert folder["samples"]["used"] == 20
    assert folder["information"]["mean"]["value"] > 0.5 * ENTROPY


def test_visual_words_have_a_mean_of_their_own(tmp_path) -> None:
    data = write_data(tmp_path / "data", 40)
    records = json.loads(data.read_text())
    for record in records:
        record["conversations"][1]["visual"] = ["3"]
    data.write_text(json.dumps(records))
    part = probe(tmp_path, write_checkpoint(tmp_path / "a", PIXELS), data=data)["checkpoints"][0]["information"]
    threes = sum(record["conversations"][1]["value"].split().count("3") for record in records)
    assert part["mean_on_visual_words"]["tokens"] == threes > 5
    assert part["mean_on_visual_words"]["value"] == pytest.approx(math.log(8), abs=1e-5)
    assert part["mean_on_other_words"]["value"] < ENTROPY


def test_samples_are_drawn_by_the_seed(tmp_path) -> None:
    data = write_data(tmp_path / "data", 40)
    checkpoint = write_checkpoint(tmp_path / "a", PIXELS)
    first = probe(tmp_path, checkpoint, data=data, samples=10)["checkpoints"]
    again = probe(tmp_path, checkpoint, data=data, samples=10)["checkpoints"]
    other = probe(tmp_path, checkpoint, data=data, samples=10, seed=1)["checkpoints"]
    assert first == again != other
    assert first[0]["samples"]["used"] == 10


def test_batches_of_another_size_change_nothing(tmp_path) -> None:
    data = write_data(tmp_path / "data", 11)
    checkpoint = write_checkpoint(tmp_path / "a", 5)
    one = probe(tmp_path, checkpoint, data=data, batch_size=1)["checkpoints"]
    four = probe(tmp_path, checkpoint, data=data, batch_size=4)["checkpoints"]
    assert one == four


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
    assert "NobodyForCausalLM" in message and "Loaded here: analytic" in message and "LlavaLlamaForCausalLM" in message
    good = write_checkpoint(tmp_path / "good", 3)
    assert "given twice" in fails(capsys, good, good, *out)
    assert "a name of its own" in fails(capsys, good, unknown, *out, "--names", "one")
    assert "--samples must be at least 1" in fails(capsys, good, *out, "--samples", "0")
    assert "--device gpu" in fails(capsys, good, *out, "--device", "gpu")


def test_logits_that_are_not_finite_stop_the_probe(tmp_path, capsys) -> None:
    data = write_data(tmp_path / "data", 4)
    broken = write_checkpoint(tmp_path / "broken", 3, broken=True)
    message = fails(capsys, broken, "--data", data, "--output", tmp_path / "out", "--measures", "information")
    assert "sample r0: the model's logits are NaN" in message


def test_shuffling_needs_two_images(tmp_path, capsys) -> None:
    data = write_data(tmp_path / "data", 1)
    message = fails(capsys, write_checkpoint(tmp_path / "a", 3), "--data", data, "--output", tmp_path / "out",
                    "--measures", "information", "--no-image", "shuffled")  # fmt: skip
    assert "at least two different images" in message


def test_missing_timm_is_named(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    data = write_data(tmp_path / "data", 4)
    message = fails(capsys, write_checkpoint(tmp_path / "a", 3), "--data", data, "--output", tmp_path / "out",
                    "--tower", "vit_small_patch14_dinov2")  # fmt: skip
    assert "pip install 'llava-vista[timm]'" in message
