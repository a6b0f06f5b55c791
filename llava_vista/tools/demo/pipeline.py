"""From nothing to a comparison: set-up, text pre-training, two stages twice, held-out answers, table and plot."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DemoError

LAUNCH = Path(__file__).parent / "launch"
#: Our own marker, so that --overwrite deletes nothing but a demo.
MARKER = "made-by-llava-vista-demo"
STAGES = ("pretrain", "finetune")
IMAGE_SIZE = 96
MISMATCH = "tokenization mismatch"
VISTA_KEYS = ("ce_loss", "vista_loss", "vista_similarity", "vista_aligned_samples")


@dataclass(frozen=True)
class Sizes:
    """How much of everything. Learning rates are for these tiny models; LLaVA's own are for 7B."""

    text_steps: int = 300
    scenes: int = 800
    heldout: int = 120
    pretrain_epochs: int = 3
    finetune_epochs: int = 6
    batch_size: int = 16
    pretrain_rate: float = 2e-3
    finetune_rate: float = 1e-3


QUICK = Sizes(text_steps=20, scenes=64, heldout=12, pretrain_epochs=2, finetune_epochs=2)


@dataclass(frozen=True)
class Setup:
    """Where the parts of the tiny set-up are."""

    language_model: Path
    vision_tower: Path
    projector: Path
    images: Path
    data: Mapping[str, Path]
    heldout: Path


def heading(text: str) -> None:
    """Say what comes next."""
    print(f"\n=== {text} ===", flush=True)


def check_environment() -> None:
    """LLaVA and what its training needs must be there.

    Raises:
        DemoError: naming what is missing.
    """
    needed = ("torch", "transformers", "llava", "sentencepiece", "PIL", "matplotlib", "deepspeed")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise DemoError(
            f"missing in this environment: {', '.join(missing)}. `bash scripts/demo.sh` makes one that has all; by "
            "hand: pip install 'llava-vista[demo]' transformers==4.37.2, and pip install --no-deps "
            "llava-torch==1.2.2.post1."
        )


def make_folder(output: Path, overwrite: bool) -> None:
    """Make the output folder. LLaVA resumes from checkpoints that it finds, so an old one is never trained into.

    Raises:
        DemoError: the folder is not empty, or is not a demo's.
    """
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise DemoError(f"{output} is not empty and was not made by the demo; choose another --output.")
        if not overwrite:
            raise DemoError(
                f"{output} holds an earlier demo; add --overwrite to replace it, or choose another --output."
            )
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()


def make_setup(output: Path, sizes: Sizes, seed: int) -> Setup:
    """Write tokenizer, language model, vision tower, pictures and data; teach the language model its language."""
    from .checkpoint import build_tiny_llava
    from .dataset import DataSizes, text_samples, write_data
    from .text_pretraining import pretrain_text

    heading("Tiny LLaVA-1.5 set-up: tokenizer, Llama, CLIP tower, rendered scenes")
    samples = text_samples(10 * sizes.text_steps, seed, turns=4)
    texts = [text for sample in samples[:600] for text, _ in sample]
    tiny = build_tiny_llava(output / "setup", texts=texts, seed=seed, heads=8)
    counts = DataSizes(
        pretrain_scenes=sizes.scenes,
        finetune_scenes=sizes.scenes,
        text_only=sizes.scenes // 10,
        heldout_questions=sizes.heldout,
    )
    data = write_data(output / "data", counts, seed, IMAGE_SIZE)
    print(f"{2 * sizes.scenes} training scenes, {sizes.heldout} held-out questions in {output / 'data'}")

    heading("Text-only pre-training of the language model (it has never seen a picture)")
    losses = pretrain_text(tiny.language_model, samples, steps=sizes.text_steps, batch_size=16, seed=seed)
    print(f"text cross-entropy {losses[0]:.2f} -> {losses[-1]:.2f}")
    return Setup(
        tiny.language_model,
        tiny.vision_tower,
        tiny.projector,
        data.images,
        {"pretrain": data.pretrain, "finetune": data.finetune},
        data.heldout,
    )


def stream(command: list[str], log: Path, environment: Mapping[str, str]) -> None:
    """Run a command, show what it prints as it prints it, and keep that in ``log``.

    Raises:
        DemoError: it failed, or LLaVA dropped a sample's labels.
    """
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=dict(environment))
        if process.stdout is None:
            raise DemoError("the training process has no output to follow.")
        while chunk := os.read(process.stdout.fileno(), 4096):
            file.write(chunk)
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
        code = process.wait()
    text = log.read_text(encoding="utf-8", errors="replace")
    if code:
        raise DemoError(f"training failed with exit code {code}; its output is in {log}:\n{text[-3000:]}")
    if MISMATCH in text:
        raise DemoError(f"LLaVA reports a '{MISMATCH}' (see {log}): samples lost their labels.")


def train_stage(setup: Setup, stage: str, arm: Path, sizes: Sizes, seed: int, flags: list[str]) -> float:
    """Run one of LLaVA's stages through its launch script. Returns wall time in seconds."""
    output = arm / stage
    output.mkdir(parents=True)
    rate = sizes.pretrain_rate if stage == "pretrain" else sizes.finetune_rate
    epochs = sizes.pretrain_epochs if stage == "pretrain" else sizes.finetune_epochs
    environment = {
        **{key: value for key, value in os.environ.items() if key != "LLAVA_VISTA"},
        "PYTHON": sys.executable,
        "PYTHONWARNINGS": "ignore",
        "LANGUAGE_MODEL": str(setup.language_model),
        "VISION_TOWER": str(setup.vision_tower),
        "IMAGE_FOLDER": str(setup.images),
        "DATA_PATH": str(setup.data[stage]),
        "PROJECTOR": str(setup.projector if stage == "pretrain" else arm / "pretrain" / "mm_projector.bin"),
        "OUTPUT_DIR": str(output),
        "EPOCHS": str(epochs),
        "BATCH_SIZE": str(sizes.batch_size),
        "LEARNING_RATE": str(rate),
        "LOGGING_STEPS": "5",
        "SEED": str(seed),
    }
    begin = time.perf_counter()
    stream(["bash", str(LAUNCH / f"{stage}.sh"), *flags], arm / f"{stage}.log", environment)
    return time.perf_counter() - begin


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The training records of one stage, as LLaVA's trainer saved them."""
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return [record for record in state["log_history"] if "loss" in record]


def check_log(records: list[dict[str, Any]], folder: Path, with_vista: bool) -> None:
    """The log must show what the run was meant to do.

    Raises:
        DemoError: VISTA did not act, or acted in the baseline.
    """
    present = [key for key in VISTA_KEYS if records and key in records[-1]]
    if with_vista and len(present) < len(VISTA_KEYS):
        raise DemoError(f"VISTA did not act: the log of {folder} has none of {VISTA_KEYS}. Try `llava-vista doctor`.")
    if not with_vista and present:
        raise DemoError(f"VISTA acted in the baseline: the log of {folder} has {present}.")


def run_demo(args: argparse.Namespace) -> None:
    """The whole demo. ``args`` are those of `llava_vista.tools.demo.add_arguments`."""
    from .evaluate import answer_questions, load_records, majority_answers, score
    from .report import Arm, plot, table

    check_environment()
    output, sizes = Path(args.output).resolve(), QUICK if args.quick else Sizes()
    make_folder(output, args.overwrite)
    begin = time.perf_counter()
    setup = make_setup(output, sizes, args.seed)
    questions, training = load_records(setup.heldout), load_records(setup.data["finetune"])
    flags = ["--vista", "--vista_method", args.method, "--vista_weight", str(args.weight)]
    arms = []
    for name, title, extra in (("baseline", "baseline", []), ("vista", f"+ VISTA {args.method}", flags)):
        logs, seconds = {}, {}
        for number, stage in enumerate(STAGES, start=1):
            heading(f"{title}: LLaVA's stage {number} ({stage}) {' '.join(extra)}")
            seconds[stage] = train_stage(setup, stage, output / name, sizes, args.seed, extra)
            logs[stage] = read_log(output / name / stage)
            check_log(logs[stage], output / name / stage, with_vista=bool(extra))
        heading(f"{title}: answers to {len(questions)} held-out questions, stock LLaVA")
        answers = score(questions, answer_questions(output / name / "finetune", questions, setup.images))
        arms.append(Arm(title, logs, seconds, answers.accuracy, answers.by_kind))
    chance = score(questions, majority_answers(training, questions)).accuracy

    heading("Result")
    text = table(arms, chance)
    print(text)
    plot(arms, output / "curves.png")
    results = {
        "seed": args.seed,
        "quick": args.quick,
        "blind_guess_accuracy": chance,
        "arms": [a.summary() for a in arms],
    }
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (output / "table.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\nAll in {time.perf_counter() - begin:.0f} s. One seed of a toy: it shows that everything works, not that")
    print("VISTA helps or harms.")
    print(f"Curves   {output / 'curves.png'}\nTable    {output / 'table.txt'}, {output / 'results.json'}")
    models = [output / name / "finetune" for name in ("baseline", "vista")]
    print(f"Models   {models[0]}, {models[1]} (vista.json beside it)")
    print(f"Look in  llava-vista probe {models[0]} {models[1]} --data {setup.data['pretrain']} --images {setup.images}")
