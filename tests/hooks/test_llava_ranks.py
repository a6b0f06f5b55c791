"""Two ranks on this machine, through the launchers that LLaVA's users have: torchrun, accelerate, DeepSpeed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import COMMON, HERE, SCRIPT, history, launcher, run, weights
from tiny_llava import build

pytestmark = pytest.mark.environments("llava-ranks")

#: One step of plain SGD at learning rate 1: the change of a weight is its gradient.
ONE_STEP = (
    "--max_steps", "1", "--logging_steps", "1", "--learning_rate", "1", "--optim", "sgd", "--lr_scheduler_type",
    "constant", "--max_grad_norm", "0", "--save_strategy", "no", "--in_order", "--images_per_row", "1",
)  # fmt: skip
#: Frozen in all these runs.
TOWER = "vision_tower"
TWO_RANKS = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
VISTA = ("--vista", "--vista_weight", "2")


def gradients(output: Path, tower: str) -> dict[str, torch.Tensor]:
    start = {name: value.detach() for name, value in build("llama", tower).named_parameters()}
    return {name: start[name] - value for name, value in weights(output).items() if name in start and TOWER not in name}


@pytest.fixture(scope="module")
def one_process(tower_path, tmp_path_factory) -> Path:
    """The global batch of 4 in one process."""
    output = tmp_path_factory.mktemp("one")
    run(
        [*launcher("python"), str(SCRIPT), "--tower", tower_path, "--output_dir", str(output),
         "--per_device_train_batch_size", "4", *ONE_STEP, *COMMON, *VISTA]
    )  # fmt: skip
    return output


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ("torchrun", ()),
        ("accelerate", ()),
        ("deepspeed", ("--deepspeed", f"{HERE}/deepspeed/zero2.json")),
        ("deepspeed", ("--deepspeed", f"{HERE}/deepspeed/zero3.json")),
        ("deepspeed", ("--deepspeed", f"{HERE}/deepspeed/zero3_offload.json")),
        ("torchrun", ("--gradient_checkpointing", "True")),
    ],
    ids=["ddp", "accelerate", "zero2", "zero3", "zero3-offload", "ddp-checkpointing"],
)
def test_two_ranks_equal_one_process(tower_path, one_process, tmp_path, start: str, words: tuple[str, ...]) -> None:
    """Parts of 2 on each rank against 4 in one process: gradients of CE + 2 VISTA, and the log."""
    expected, (wanted,) = gradients(one_process, tower_path), history(one_process, "loss")
    compare(start, words, tower_path, tmp_path / "out", expected, wanted)


def compare(start: str, words: tuple[str, ...], tower: str, output: Path, expected: dict, wanted: dict) -> None:
    """One run on two ranks against the gradients and the log record of one process."""
    command = [
        *launcher(start), str(SCRIPT), "--tower", tower, "--output_dir", str(output),
        "--per_device_train_batch_size", "2", *ONE_STEP, *COMMON, *VISTA, *words,
    ]  # fmt: skip
    printed = run(command, **TWO_RANKS)
    assert printed.count("VISTA enabled: method=l2 weight=2.0") == 1  # rank 0 only
    found = gradients(output, tower)
    scale = max(value.abs().max() for value in expected.values())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() <= 1e-5 * scale, name
    (record,) = history(output, "loss")
    assert record["vista_aligned_samples"] == wanted["vista_aligned_samples"] == 4
    for key in ("ce_loss", "vista_loss", "vista_similarity", "loss"):
        assert record[key] == pytest.approx(wanted[key], abs=2e-6)


@pytest.mark.parametrize("method", ["l2", "infonce"])
def test_zero3_with_a_rank_that_never_has_an_image(tower_path, one_process, tmp_path, method: str) -> None:
    """Rows alternate image, text-only, so that rank 1 sees text only, for many steps: no hang, and the log is right.

    With infonce both ranks take part in a collective at every step; one sample has no negatives, so the term is 0.
    """
    output = tmp_path / "out"
    printed = run(
        [
            *launcher("deepspeed"), str(SCRIPT), "--tower", tower_path, "--output_dir", str(output), "--deepspeed",
            f"{HERE}/deepspeed/zero3.json", "--per_device_train_batch_size", "1", "--max_steps", "12",
            "--logging_steps", "3", "--learning_rate", "1e-3", "--save_strategy", "no", "--in_order",
            "--images_per_row", "10", *COMMON, "--vista", "--vista_method", method,
        ],
        **TWO_RANKS,
    )  # fmt: skip
    records = history(output, "loss")
    assert [record["vista_aligned_samples"] for record in records] == [3, 3, 3, 3]
    assert all(record["vista_loss"] == 0 if method == "infonce" else 0 < record["vista_loss"] < 1 for record in records)
    # CE is the mean over both ranks; the term is added on rank 0 only, so half of it is in the mean loss
    for record in records:
        assert record["loss"] == pytest.approx(record["ce_loss"] + record["vista_loss"] / 2, abs=2e-4)
    assert "not seen a single sample" not in printed


def test_sequence_parallelism_is_refused(tower_path, tmp_path) -> None:
    """Two ranks that share one sequence: an error before the first step, which names the setting of DeepSpeed."""
    config = json.loads((HERE / "deepspeed" / "zero2.json").read_text())
    config |= {"sequence_parallel_size": 2, "data_parallel_size": 1}
    (tmp_path / "sequence.json").write_text(json.dumps(config))
    command = [
        *launcher("deepspeed"), str(SCRIPT), "--tower", tower_path, "--output_dir", str(tmp_path / "out"),
        "--per_device_train_batch_size", "2", *ONE_STEP, *COMMON, *VISTA, "--deepspeed", f"{tmp_path}/sequence.json",
    ]  # fmt: skip
    with pytest.raises(RuntimeError, match="sequence_parallel_size of the DeepSpeed configuration is 2"):
        run(command, **TWO_RANKS)


@pytest.mark.parametrize(
    ("case", "messages"),
    [
        ("options", ["the ranks do not agree on VISTA", '"weight": 1.0', '"weight": 2.0']),
        ("off", ["the ranks do not agree on VISTA", "rank 1: VISTA off (no answer within 5 s)"]),
        ("nan", ["NonFiniteLossError", "at step 2 on rank 1 (", "The cross-entropy was still finite then"]),
    ],
)
def test_trouble_on_one_rank_stops_all(tower_path, tmp_path, case: str, messages: list[str]) -> None:
    command = [
        *launcher("torchrun"), str(HERE / "rank_script.py"), "--tower", tower_path, "--output_dir", str(tmp_path),
        "--per_device_train_batch_size", "2", "--max_steps", "50", "--logging_steps", "100", "--learning_rate", "1e-3",
        "--save_strategy", "steps", "--save_steps", "4", *COMMON,
    ]  # fmt: skip
    with pytest.raises(RuntimeError) as error:
        run(command, RANK_CASE=case, **TWO_RANKS)
    for message in messages:
        assert message in str(error.value)
    assert not list(tmp_path.glob("checkpoint-*"))
