"""LLaVA-1.5's own `llava.train.train`, unmodified, on data in its own format: both stages, LoRA, DeepSpeed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import HERE, environment, equal, history, launcher, run
from safetensors.torch import load_file

from llava_vista.tools.demo import tiny_checkpoint as checkpoint
from llava_vista.tools.demo.scene_dataset import DataPaths, DataSizes, write_data
from llava_vista.tools.demo.scenes import caption, make_scenes
from llava_vista.tools.demo.tiny_checkpoint import TinyPaths, build_tiny_llava

pytestmark = pytest.mark.environments("llava")

LAUNCH = Path(checkpoint.__file__).parent / "launch"
STEPS = ("--max_steps", "4", "--logging_steps", "1", "--save_strategy", "no")


@pytest.fixture(scope="module")
def setup(tmp_path_factory) -> tuple[TinyPaths, DataPaths]:
    folder = tmp_path_factory.mktemp("setup")
    paths = build_tiny_llava(
        folder, texts=[caption(scene) for scene in make_scenes(50)], hidden_size=40, heads=2, layers=2
    )
    sizes = DataSizes(pretrain_scenes=24, finetune_scenes=24, text_only=8, heldout_questions=4)
    return paths, write_data(folder / "data", sizes, seed=0, image_size=96)


def variables(setup: tuple[TinyPaths, DataPaths], output: Path, data: Path) -> dict[str, str]:
    paths, files = setup
    return {
        "PYTHON": sys.executable,
        "LANGUAGE_MODEL": str(paths.language_model),
        "VISION_TOWER": str(paths.vision_tower),
        "IMAGE_FOLDER": str(files.images),
        "DATA_PATH": str(data),
        "OUTPUT_DIR": str(output),
        "PROJECTOR": str(paths.projector),
        "BATCH_SIZE": "4",
        "LEARNING_RATE": "1e-3",
    }


def train(script: str, setup, output: Path, *words: str, **more: str) -> str:
    """Run one of the demo's launch scripts; no sample may have lost its labels."""
    data = setup[1].pretrain if script == "pretrain.sh" else setup[1].finetune
    printed = run(["bash", str(LAUNCH / script), *words], **{**variables(setup, output, data), **more})
    assert "tokenization mismatch" not in printed
    return printed


@pytest.fixture(scope="module")
def projector(setup, tmp_path_factory) -> str:
    output = tmp_path_factory.mktemp("pretrain")
    train("pretrain.sh", setup, output, *STEPS, "--vista")
    for record in history(output, "loss"):
        assert record["vista_aligned_samples"] == 4
        assert record["loss"] == pytest.approx(record["ce_loss"] + record["vista_loss"], abs=2e-4)
    saved = torch.load(output / "mm_projector.bin")
    assert all("mm_projector" in name for name in saved)  # the keys that LLaVA saves, and no other
    return str(output / "mm_projector.bin")


def test_stage_1_with_weight_zero_is_the_baseline(setup, tmp_path) -> None:
    """LLaVA's projector is made before its seed is set; from a given one, both runs are the same bit for bit."""
    for arm, words in (("baseline", ()), ("zero", ("--vista", "--vista_weight", "0"))):
        train("pretrain.sh", setup, tmp_path / arm, *STEPS, *words)
    saved = [torch.load(tmp_path / arm / "mm_projector.bin") for arm in ("baseline", "zero")]
    assert equal(*saved)
    for ours, theirs in zip(history(tmp_path / "zero", "loss"), history(tmp_path / "baseline", "loss"), strict=True):
        assert {key: ours[key] for key in theirs} == theirs


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


@pytest.fixture(scope="module")
def finetuned(setup, projector, tmp_path_factory) -> dict[str, Path]:
    """Stage 2 without the flag, with weight 0, and with VISTA; and without any .pth file processed."""
    outputs = {name: tmp_path_factory.mktemp(name) for name in ("baseline", "zero", "vista", "absent")}
    train("finetune.sh", setup, outputs["baseline"], *STEPS, PROJECTOR=projector)
    train("finetune.sh", setup, outputs["zero"], *STEPS, "--vista", "--vista_weight", "0", PROJECTOR=projector)
    train("finetune.sh", setup, outputs["vista"], *STEPS, PROJECTOR=projector, LLAVA_VISTA="1")

    # An interpreter that processes no .pth file: this editable install does not even exist for it.
    import llava

    python = outputs["absent"] / "python"
    site = Path(llava.__file__).parent.parent
    python.write_text(
        f'#!/bin/sh\ncd /\nPYTHONPATH="{site}" exec "{sys.executable}" -S -c "\n'
        "import importlib.util, runpy, sys\n"
        "if importlib.util.find_spec('llava_vista'): raise SystemExit('llava_vista is importable')\n"
        "sys.argv = sys.argv[2:]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
        '" "$@"\n'
    )
    python.chmod(0o755)
    train("finetune.sh", setup, outputs["absent"], *STEPS, PROJECTOR=projector, PYTHON=str(python))
    return outputs


def test_flag_absent_is_bit_identical_to_not_installed(finetuned) -> None:
    assert equal(weights(finetuned["baseline"]), weights(finetuned["absent"]))
    assert history(finetuned["baseline"]) == history(finetuned["absent"])


def test_weight_zero_is_the_baseline_bit_for_bit(finetuned) -> None:
    assert equal(weights(finetuned["baseline"]), weights(finetuned["zero"]))
    for ours, theirs in zip(history(finetuned["zero"], "loss"), history(finetuned["baseline"], "loss"), strict=True):
        assert {key: ours[key] for key in theirs} == theirs


def test_vista_checkpoint_has_the_baselines_keys_and_other_values(finetuned) -> None:
    baseline, vista = weights(finetuned["baseline"]), weights(finetuned["vista"])
    assert {name: value.shape for name, value in vista.items()} == {
        name: value.shape for name, value in baseline.items()
    }
    assert not equal(vista, baseline)
    files = {path.name for path in finetuned["vista"].iterdir()} - {
        path.name for path in finetuned["baseline"].iterdir()
    }
    assert files == {"vista.json"}


GENERATE = """
import sys; sys.path.append(sys.argv[1])
import torch
from llava.model.builder import load_pretrained_model
path, base, name = sys.argv[2], sys.argv[3] or None, sys.argv[4]
tokenizer, model, processor, _ = load_pretrained_model(path, base, name, device="cpu", device_map=None)
model = model.float()
ids = torch.tensor([[1, -200, 5, 6, 7]])
out = model.generate(ids, images=torch.zeros(1, 3, 96, 96), max_new_tokens=3, min_new_tokens=3)
print("GENERATED", out.shape[1] >= 3, "llava_vista" in sys.modules)
"""


def generates_in_stock_llava(path: Path, base: str = "", name: str = "llava-tiny") -> None:
    """Load with LLaVA's own builder in a process for which llava-vista does not exist, and generate."""
    import llava

    site = str(Path(llava.__file__).parent.parent)
    result = subprocess.run(
        [sys.executable, "-S", "-c", GENERATE, site, str(path), base, name],
        capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert "GENERATED True False" in result.stdout, result.stderr[-3000:]


def test_vista_checkpoint_loads_and_generates_in_stock_llava(finetuned) -> None:
    generates_in_stock_llava(finetuned["vista"])


def test_lora_files_are_the_baselines_and_merge_in_stock_llava(setup, projector, tmp_path) -> None:
    lora = ("--lora_enable", "True", "--lora_r", "4", "--lora_alpha", "8", *STEPS)
    keys = {}
    for arm, words in (("baseline", ()), ("vista", ("--vista",))):
        output = tmp_path / f"llava-lora-{arm}"
        train("finetune.sh", setup, output, *lora, *words, PROJECTOR=projector)
        adapter = next(output.glob("adapter_model.*"))
        saved = load_file(adapter) if adapter.suffix == ".safetensors" else torch.load(adapter)
        rest = torch.load(output / "non_lora_trainables.bin")
        keys[arm] = {name: value.shape for name, value in {**saved, **rest}.items()}
        assert ("vista_loss" in history(output, "loss")[0]) == (arm == "vista")
    assert keys["vista"] == keys["baseline"]
    generates_in_stock_llava(tmp_path / "llava-lora-vista", str(setup[0].language_model), "llava-lora-tiny")


@pytest.mark.parametrize(
    ("script", "config", "words"),
    [
        ("pretrain.sh", "zero2.json", ()),
        ("finetune.sh", "zero2.json", ("--lora_enable", "True", "--lora_r", "4")),
        ("finetune.sh", "zero3.json", ("--lora_enable", "True", "--lora_r", "4")),
    ],
    ids=["stage 1, ZeRO-2", "LoRA, ZeRO-2", "LoRA, ZeRO-3"],
)
def test_under_the_deepspeed_launcher(setup, projector, tmp_path, script: str, config: str, words) -> None:
    """LLaVA's own script on two ranks, as `deepspeed llava/train/train_mem.py --deepspeed zeroN.json ... --vista`."""
    start = tmp_path / "python"
    command = " ".join(f'"{word}"' for word in launcher("deepspeed"))
    # the launch script calls `python -m llava.train.train ...`: hand its flags to the launcher, for a train_mem.py
    start.write_text(f'#!/bin/sh\nshift 2\nexec {command} "{HERE}/cpu_ranks.py" "$@"\n')
    start.chmod(0o755)
    output = tmp_path / "out"
    printed = train(
        script, setup, output, *STEPS, "--deepspeed", str(HERE / "deepspeed" / config), *words, "--use_cpu", "False",
        "--vista", PROJECTOR=projector, PYTHON=str(start), OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu",
    )  # fmt: skip
    records = history(output, "loss")
    assert len(records) == 4
    # stage 2 groups by modality: a step may hold text-only batches on one rank or on both
    counts = [record["vista_aligned_samples"] for record in records]
    assert any(count > 4 for count in counts) or sum(counts) >= 8
    assert all((record["vista_loss"] > 0) == (record["vista_aligned_samples"] > 0) for record in records)
    assert printed.count("[llava-vista] VISTA enabled: method=l2 weight=1.0") == 1
    assert json.loads((output / "vista.json").read_text())["world_size"] == 2
    assert os.path.exists(output / ("non_lora_trainables.bin" if words else "mm_projector.bin"))
