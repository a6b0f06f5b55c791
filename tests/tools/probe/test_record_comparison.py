"""Records of the host's own script, compared: values by literal loops, pairs by sample, what is refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from llava_vista.cli import main

BINS = [1, 2, 4, 8]


def record(seed: int, gain: float, samples: int = 30, noise: float = 0.01) -> dict:
    """Samples that differ much among each other; ``gain`` nats more per token in each, but for a little noise."""
    levels, own = random.Random(1), random.Random(seed)
    found = []
    for number in range(samples):
        tokens = [1, 1, 2, 4][: levels.randint(1, 4)]
        level = levels.gauss(0, 3)
        nats = [count * (level + gain + own.gauss(0, noise)) for count in tokens]
        alone = number == 5
        found.append({
            "rank": number % 2, "batch": number // 4, "text": f"{number // 2:08x}", "nats": nats, "tokens": tokens,
            "slope_xy": 0.0, "slope_xx": 1.0,
            "margin": None if alone else level + gain, "own_first": None if alone else float(level > 0),
            "chance": None if alone else 0.25,
        })  # fmt: skip
    return {"bin_ends": BINS, "options": {"method": "l2"}, "samples": found, "slope": 0.1, "class": "C", "seed": 0}


def write(folder: Path, **records: dict) -> list[str]:
    for name, content in records.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return [str(folder / f"{name}.json") for name in records]


def per_token(samples: list[dict]) -> float:
    return sum(sum(sample["nats"]) for sample in samples) / sum(sum(sample["tokens"]) for sample in samples)


def test_values_pairs_and_files(tmp_path, capsys) -> None:
    first, second = record(1, 0.0), record(2, 0.2)
    second["samples"] = second["samples"][3:][::-1]  # other samples are missing, and the order is another
    files = write(tmp_path, first=first, second=second)
    assert main(["probe", *files, "--output", str(tmp_path / "out")]) == 0
    result = json.loads((tmp_path / "out" / "comparison.json").read_text())
    one, other = result["records"]
    assert one["information"]["value"] == pytest.approx(per_token(first["samples"]))
    margins = [sample["margin"] for sample in first["samples"] if sample["margin"] is not None]
    assert one["margin"]["value"] == pytest.approx(sum(margins) / len(margins)) and one["margin"]["n"] == 29
    for at in range(len(BINS)):
        reach = [sample for sample in first["samples"] if len(sample["tokens"]) > at]
        mean = sum(sample["nats"][at] for sample in reach) / sum(sample["tokens"][at] for sample in reach)
        assert one["curves"]["information"][at]["value"] == pytest.approx(mean)
        assert one["curves"]["information"][at]["n"] == len(reach)
    difference = other["difference"]
    shared = per_token(second["samples"]) - per_token(first["samples"][3:])
    assert difference["samples"] == 27 and difference["information"]["value"] == pytest.approx(shared)
    assert difference["information"]["value"] == pytest.approx(0.2, abs=0.01)
    assert 0.18 < difference["information"]["low"] < difference["information"]["high"] < 0.22
    assert other["information"]["high"] - other["information"]["low"] > 1  # unpaired, the samples' levels drown it
    names = {path.stem for path in (tmp_path / "out").glob("*.png")}
    assert names == {f"probe{name}" for name in ("", "-information", "-difference", "-margin", "-own-first")}
    assert {path.stem for path in (tmp_path / "out").glob("*.pdf")} == names
    assert "paired over the samples in common: 27" in capsys.readouterr().out


def test_without_common_samples_there_is_no_difference(tmp_path, capsys) -> None:
    first, second = record(1, 0.0), record(2, 0.2)
    for sample in second["samples"]:
        sample["text"] = f"x{sample['text']}"
    assert main(["probe", *write(tmp_path, first=first, second=second), "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["records"][1]["difference"] is None
    assert "same data, seed and batch size" in capsys.readouterr().out


def test_what_is_no_record_or_not_comparable_is_refused(tmp_path, capsys) -> None:
    other = {**record(1, 0), "options": {"method": "cosine"}}
    good, cosine, old = write(tmp_path, good=record(1, 0), cosine=other, old={"checkpoints": []})
    (tmp_path / "torn.json").write_text("{")
    for files, words in (
        ([good, cosine], "different estimators"),
        ([good, old], "no samples and no bin_ends"),
        ([good, str(tmp_path / "torn.json")], "torn.json"),
        ([good, str(tmp_path)], "cannot be mixed"),
        ([good, good], "a name of its own"),
    ):
        assert main(["probe", *files, "--output", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
