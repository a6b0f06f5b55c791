"""``LLAVA_VISTA_PROBE=DIR`` and ``llava-vista probe -- COMMAND``, with the real LLaVA-1.5 and its own script."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from literal import literal_own_text
from runs import COMMON, HERE, SCRIPT, launcher, run
from tiny_llava import build, make_batch
from traced import answer_log_probs, trace

from llava_vista import cli
from llava_vista.errors import ProbeError

pytestmark = pytest.mark.environments("llava")


def command(start: str, tower: str, output: Path, *words: str) -> list[str]:
    return [
        *launcher(start), str(SCRIPT), "--tower", tower, "--output_dir", str(output), "--per_device_train_batch_size",
        "2", "--max_steps", "2", "--in_order", "--images_per_row", "12", *COMMON, *words,
    ]  # fmt: skip


def expected(tower: str, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Nats of each supervised token of the rows with these seeds, and their margin, from the probe's passes."""
    nats, ids, embeds, hidden, kinds = [], [], [], [], []
    model = build("llama", tower).eval()
    for seed in seeds:
        batch = make_batch((1 + seed % 2,), seed=seed)
        seen, blind = (trace(model, batch, blind=blind) for blind in (False, True))
        nats.append(answer_log_probs(seen)[0] - answer_log_probs(blind)[0])
        embeds.append(seen.inputs_embeds[0].detach())
        hidden.append(seen.last_hidden_state[0].detach())
        kinds.append(seen.layout.image[0].long() - (~seen.layout.text[0] & ~seen.layout.image[0]).long())
        ids.append(torch.full((len(kinds[-1]),), seed))  # no two texts are equal
    pad = torch.nn.utils.rnn.pad_sequence
    margin, first, chance, compared = literal_own_text(
        "l2", pad(ids, True), pad(embeds, True), pad(hidden, True), pad(kinds, True, -1)
    )
    assert compared == len(seeds)
    return {"nats": nats, "margin": margin, "own_first": first, "chance": chance}


def check(record: dict[str, Any], tower: str, batches: list[tuple[int, tuple[int, ...]]]) -> None:
    """Compare a record with loops; ``batches`` are rank and seeds, in the record's order."""
    samples = iter(record["samples"])
    everything, margins = [], []
    for rank, seeds in batches:
        wanted = expected(tower, seeds)
        margins.append(wanted["margin"])
        found = [next(samples) for _ in seeds]
        assert all(sample["rank"] == rank and sample["chance"] == 0.5 for sample in found)
        assert sum(sample["margin"] for sample in found) / len(found) == pytest.approx(wanted["margin"], abs=1e-6)
        for sample, nats in zip(found, wanted["nats"], strict=True):
            ends = [0, *record["bin_ends"]]
            bins = [nats[a:b] for a, b in pairwise(ends) if len(nats[a:b])]
            assert sample["tokens"] == [len(part) for part in bins]
            assert sample["nats"] == pytest.approx([float(part.sum()) for part in bins], abs=1e-5)
            everything.append(nats)
    assert next(samples, None) is None
    tokens = torch.cat(everything)
    assert record["tokens"] == len(tokens)
    assert record["information"] == pytest.approx(float(tokens.mean()), abs=1e-6)
    assert record["margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-6)
    xy = sum(float(((torch.arange(len(y)) - (len(y) - 1) / 2) * y).sum()) for y in everything)
    xx = sum(float((torch.arange(len(y)) - (len(y) - 1) / 2).square().sum()) for y in everything)
    assert record["slope"] == pytest.approx(xy / xx, abs=1e-6)


def test_the_host_script_measures_instead_of_training(tower_path, tmp_path, capfd) -> None:
    """By the command; nothing is trained or saved, and two batches of the host's own loader are measured."""
    output = tmp_path / "probe"
    words = ["probe", "--output", str(output), "--batches", "2", "--", *command("python", tower_path, tmp_path / "run")]
    assert cli.main(words) == 0
    check(json.loads((output / "probe.json").read_text()), tower_path, [(0, (0, 1)), (0, (2, 3))])
    assert "own text ranked first" in capfd.readouterr().out
    assert not list((tmp_path / "run").glob("*.bin")) and not (tmp_path / "run" / "trainer_state.json").exists()


def test_two_ranks_are_gathered(tower_path, tmp_path) -> None:
    """ZeRO-2, as LLaVA's scripts have it; --vista may stay on the command line."""
    variables = {"LLAVA_VISTA_PROBE": str(tmp_path / "probe"), "LLAVA_VISTA_PROBE_BATCHES": "1", "OMP_NUM_THREADS": "1"}
    words = ("--deepspeed", f"{HERE}/deepspeed/zero2.json", "--vista")
    run(command("deepspeed", tower_path, tmp_path / "run", *words), **variables, DS_ACCELERATOR="cpu")
    record = json.loads((tmp_path / "probe" / "probe.json").read_text())
    check(record, tower_path, [(0, (0, 1)), (1, (2, 3))])
    assert record["ranks"] == 2


@pytest.mark.parametrize("case", ["zero3", "resume", "batches"])
def test_what_cannot_be_measured_is_refused(tower_path, tmp_path, case: str) -> None:
    start, words, message = {
        "zero3": ("deepspeed", ("--deepspeed", f"{HERE}/deepspeed/zero3.json"), "with ZeRO-3 no rank holds"),
        "resume": ("python", (), "resumes from a checkpoint"),
        "batches": ("python", (), "LLAVA_VISTA_PROBE_BATCHES must be"),
    }[case]
    if case == "resume":
        (tmp_path / "run" / "checkpoint-1").mkdir(parents=True)
    variables = {"LLAVA_VISTA_PROBE": str(tmp_path / "probe"), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    if case == "batches":
        variables["LLAVA_VISTA_PROBE_BATCHES"] = "few"
    with pytest.raises(RuntimeError, match=message):
        run(command(start, tower_path, tmp_path / "run", *words), **variables)
    assert not (tmp_path / "probe").exists()


@pytest.mark.parametrize("case", ["fresh adapter", "own folder"])
def test_a_model_that_is_not_the_users_is_refused(tower_path, tmp_path, monkeypatch, case: str) -> None:
    from peft import LoraConfig, get_peft_model
    from tiny_train import ModelArguments, arguments, make_trainer

    from llava_vista.hooks import host_probe

    trainer = make_trainer(ModelArguments(tower=tower_path), arguments(tmp_path))
    if case == "fresh adapter":
        trainer.model = get_peft_model(trainer.model, LoraConfig(r=2, target_modules=r"model.layers.*q_proj"))
        message = "the LoRA adapter is all zero"
    else:
        (tmp_path / "checkpoint-1").mkdir()
        trainer.model.config._name_or_path = str(tmp_path / "checkpoint-1")
        message = "holds the checkpoint"
    with pytest.raises(ProbeError, match=message):
        host_probe.refuse(trainer, None)


def test_a_command_without_a_trainer_is_named(tmp_path, capsys) -> None:
    words = ["probe", "--output", str(tmp_path), "--", *launcher("python"), "-c", "pass"]
    assert cli.main(words) == 2
    assert "ended without writing" in capsys.readouterr().err
