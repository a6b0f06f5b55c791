"""The demo from an empty folder to the comparison: tiny model, text pre-training, two stages per arm, table, figure."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import DemoError
from ..kit.processes import run_logged, tail
from ..kit.training_folder import TrainingRun, read_training
from .arm_results import results_tables, summarize
from .heldout_answers import answer_questions, load_records, majority_answers, score
from .scene_dataset import DataPaths, DataSizes, text_samples, write_data
from .text_pretraining import pretrain_text
from .tiny_checkpoint import TinyPaths, build_tiny_llava

#: --overwrite deletes only a folder that has this file.
MARKER = "made-by-llava-vista-demo"
IMAGE_SIZE = 96
#: Steps between measurements of what the image adds to the text.
PROBE_STEPS = "10"
MISMATCH = b"tokenization mismatch"
VISTA_KEYS = ("ce_loss", "vista_loss", "vista_similarity", "vista_aligned_samples")


@dataclass(frozen=True)
class Sizes:
    """Amount of data and training. The learning rates fit these tiny models; LLaVA's own are for 7B."""

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
    """Paths of the tiny checkpoints and of the data."""

    tiny: TinyPaths
    data: DataPaths


def _print_heading(text: str) -> None:
    print(f"\n=== {text} ===", flush=True)


def make_folder(output: Path, overwrite: bool) -> None:
    """Make the output folder. It must be empty: LLaVA would resume from an earlier demo's checkpoint.

    Raises:
        DemoError: the folder has files, and is not a demo's or must not be overwritten.
    """
    if output.is_file():
        raise DemoError(f"{output} is a file; a folder that is new or empty was expected. Choose another --output.")
    if output.exists() and any(output.iterdir()):
        if not (output / MARKER).exists():
            raise DemoError(f"{output} is not empty and was not made by the demo. Choose another --output.")
        if not overwrite:
            advice = "Add --overwrite to replace it, or choose another --output."
            raise DemoError(f"{output} holds an earlier demo. {advice}")
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).touch()


def make_setup(output: Path, sizes: Sizes, seed: int) -> Setup:
    """Write tokenizer, language model, vision tower, images and data, and pre-train the language model on text."""
    _print_heading("Tiny LLaVA-1.5: tokenizer, Llama, CLIP tower, rendered scenes")
    samples = text_samples(10 * sizes.text_steps, seed, turns=4)
    texts = [text for sample in samples[:600] for text, _ in sample]
    tiny = build_tiny_llava(output / "setup", texts=texts, seed=seed, heads=8)
    counts = DataSizes(sizes.scenes, sizes.scenes, text_only=sizes.scenes // 10, heldout_questions=sizes.heldout)
    data = write_data(output / "data", counts, seed, IMAGE_SIZE)
    print(f"{2 * sizes.scenes} training scenes, {sizes.heldout} held-out questions in {output / 'data'}")

    _print_heading("Text-only pre-training of the language model (without any image)")
    losses = pretrain_text(tiny.language_model, samples, steps=sizes.text_steps, batch_size=16, seed=seed)
    print(f"text cross-entropy {losses[0]:.2f} -> {losses[-1]:.2f}")
    return Setup(tiny, data)


def train_stage(setup: Setup, stage: str, arm: Path, sizes: Sizes, seed: int, flags: Sequence[str]) -> float:
    """Run one of LLaVA's stages through its launch script, and return the wall time in seconds.

    Raises:
        DemoError: the training failed, or LLaVA dropped a sample's labels.
    """
    output, log = arm / stage, arm / f"{stage}.log"
    output.mkdir(parents=True)
    is_pretraining = stage == "pretrain"
    values = {
        "PYTHON": sys.executable,
        "PYTHONWARNINGS": "ignore",
        "LANGUAGE_MODEL": setup.tiny.language_model,
        "VISION_TOWER": setup.tiny.vision_tower,
        "IMAGE_FOLDER": setup.data.images,
        "DATA_PATH": setup.data.pretrain if is_pretraining else setup.data.finetune,
        "PROJECTOR": setup.tiny.projector if is_pretraining else arm / "pretrain" / "mm_projector.bin",
        "OUTPUT_DIR": output,
        "EPOCHS": sizes.pretrain_epochs if is_pretraining else sizes.finetune_epochs,
        "BATCH_SIZE": sizes.batch_size,
        "LEARNING_RATE": sizes.pretrain_rate if is_pretraining else sizes.finetune_rate,
        "LOGGING_STEPS": 5,
        "SEED": seed,
    }
    environment = {**os.environ, **{name: str(value) for name, value in values.items()}}
    environment.pop("LLAVA_VISTA", None)
    script = Path(__file__).parent / "launch" / f"{stage}.sh"
    begin = time.perf_counter()
    code = run_logged(["bash", str(script), *flags], log, environment=environment)
    seconds = time.perf_counter() - begin
    if code:
        raise DemoError(f"The training ended with exit code {code}. The end of its output, {log}:\n{tail(log)}")
    if MISMATCH in log.read_bytes():
        raise DemoError(f"LLaVA reports a '{MISMATCH.decode()}' (see {log}): samples lost their labels.")
    return seconds


def read_stage(folder: Path, *, with_vista: bool) -> TrainingRun:
    """Read the log of one stage, and check that VISTA acted if and only if it was requested.

    Raises:
        DemoError: VISTA did not act, or acted in the baseline.
    """
    run = read_training(folder)
    present = [key for key in VISTA_KEYS if any(key in record for record in run.log)]
    missing = [key for key in VISTA_KEYS if key not in present]
    if with_vista and missing:
        raise DemoError(f"VISTA did not act: the log of {folder} lacks {missing}. Run `llava-vista doctor`.")
    if not with_vista and present:
        raise DemoError(f"VISTA acted in the baseline: the log of {folder} has {present}. Unset LLAVA_VISTA.")
    return run


def run_demo(args: argparse.Namespace) -> None:
    """Run the whole demo. ``args`` are those of `llava_vista.tools.demo.add_arguments`.

    Raises:
        DemoError: a training or the comparison failed, or the output folder cannot be used.
    """
    output, sizes = Path(args.output).resolve(), QUICK if args.quick else Sizes()
    make_folder(output, args.overwrite)
    begin = time.perf_counter()
    setup = make_setup(output, sizes, args.seed)
    questions, training = load_records(setup.data.heldout), load_records(setup.data.finetune)
    arms, chances = [], []
    # weight 0 only observes: no number of the training changes, and `compare` can check seed, data and options
    for name, title, weight in (("baseline", "baseline", 0.0), ("vista", f"+ VISTA {args.method}", args.weight)):
        flags = ["--vista", "--vista_method", args.method, "--vista_weight", str(weight)]
        flags += ["--vista_probe_steps", PROBE_STEPS]
        runs, seconds = {}, {}
        for number, stage in enumerate(("pretrain", "finetune"), start=1):
            _print_heading(f"{title}: LLaVA's stage {number} ({stage}) {' '.join(flags)}")
            seconds[stage] = train_stage(setup, stage, output / name, sizes, args.seed, flags)
            runs[stage] = read_stage(output / name / stage, with_vista=True)
        _print_heading(f"{title}: answers to {len(questions)} held-out questions, stock LLaVA")
        given = answer_questions(output / name / "finetune", questions, setup.data.images)
        arms.append(summarize(title, runs, seconds, *score(questions, given)))
        chances += runs["finetune"].series("vista_own_first_chance")[1]
    guess, _ = score(questions, majority_answers(training, questions))

    _print_heading("Result")
    text = results_tables(arms, guess, chances)
    print(text)
    results = {"seed": args.seed, "quick": args.quick, "blind_guess_accuracy": guess, "arms": arms}
    (output / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    (output / "table.txt").write_text(text + "\n", encoding="utf-8")
    compared = [str(output / name / "finetune") for name in ("baseline", "vista")]
    words = ["compare", *compared, "--quiet", "-o", str(output / "report.html"), "-o", str(output / "curves.png")]
    # A process of its own: a tool imports no other tool.
    done = subprocess.run([sys.executable, "-m", "llava_vista.cli", *words], capture_output=True, text=True)
    if not (output / "curves.png").is_file():  # the exit code is also 1 for a report of what could not be compared
        raise DemoError(f"`llava-vista {shlex.join(words)}` failed: {done.stderr.strip()[-1000:]}")
    print(f"\n{done.stdout.strip()}")
    took, models = time.perf_counter() - begin, " ".join(compared)
    print(f"\n{took:.0f} s in all. One seed of a toy: this shows that everything works, not that VISTA helps or harms.")
    print(f"Files    {output}: report.html, curves.png, table.txt, results.json, baseline/, vista/")
    print(f"Compare  llava-vista compare {models}")
    print(f"Probe    llava-vista probe {models} --data {setup.data.heldout} --images {setup.data.images}")
