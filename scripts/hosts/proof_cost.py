"""What the proof of the merge costs: steps of LLaVA-1.5's own code on a CPU, with and without it, in turn.

    python scripts/hosts/proof_cost.py [--rounds 12]

In the environment of the host LLaVA (`run.sh`), or of the tests (llava). The first merge of a handle is run twice more,
and compared. An arm without the proof is given the outcome of another handle's.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from results import write_part

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from llava_vista import attach  # noqa: E402
from llava_vista.tools.demo.tiny_checkpoint import write_vision_tower  # noqa: E402

IMAGE, IGNORE, VOCABULARY, ROWS, LENGTH = -200, -100, 1000, 4, 96
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6,
    "num_attention_heads": 8, "mm_hidden_size": 128, "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2,
    "use_cache": False,
}  # fmt: skip
STEPS = 4


def build(folder: Path) -> Any:
    write_vision_tower(folder, image_size=112, patch_size=14, hidden_size=128, layers=4)
    llava = importlib.import_module("llava.model.language_model.llava_llama")
    model = llava.LlavaLlamaForCausalLM(llava.LlavaConfig(**SIZES, mm_vision_tower=str(folder)))
    model.get_vision_tower().load_model()
    return model.train()


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH))
    ids[:, 4] = IMAGE
    labels = ids.clone()
    labels[:, : LENGTH // 2] = IGNORE
    mask = torch.ones_like(ids, dtype=torch.bool)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask, "images": torch.randn(ROWS, 3, 112, 112)}


def seconds_of_steps(model: Any, inputs: dict[str, torch.Tensor]) -> list[float]:
    """Return the computing time of each of the first steps."""
    taken = []
    for _ in range(STEPS):
        start = time.process_time()
        model(**inputs).loss.backward()
        taken.append(time.process_time() - start)
        model.zero_grad(set_to_none=True)
    return taken


def take_over(proved: Any, handle: Any) -> None:
    """Give a handle's merge what another handle has proved."""
    merger, source = handle.observer._source._merger, proved.observer._source._merger
    merger._proof, merger._returns_no_mask = source._proof, dict(source._returns_no_mask)


def measure(model: Any, rounds: int) -> dict[str, list[list[float]]]:
    """Return the seconds of steps of each round, by arm: A B C, C B A, ..."""
    inputs = batch()
    proved = attach(model)
    seconds_of_steps(model, inputs)  # warm up
    proved.detach()
    taken: dict[str, list[list[float]]] = {"plain": [], "unproved": [], "proved": []}
    for number in range(rounds):
        for arm in list(taken) if number % 2 == 0 else reversed(list(taken)):
            handle = None if arm == "plain" else attach(model)
            if arm == "unproved":
                take_over(proved, handle)
            taken[arm].append(seconds_of_steps(model, inputs))
            if handle is not None:
                handle.detach()
    return taken


def compared(taken: dict[str, list[list[float]]], arm: str, other: str, steps: slice) -> str:
    """Return the quartiles of the differences within rounds, in percent of a plain step."""
    step = statistics.median(value for values in taken["plain"] for value in values)
    pairs = zip(taken[arm], taken[other], strict=True)
    low, middle, high = statistics.quantiles(
        (100 * (statistics.mean(left[steps]) - statistics.mean(right[steps])) / step for left, right in pairs), n=4
    )
    return f"{middle:+.1f}% ({low:+.1f} to {high:+.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        taken = measure(build(Path(folder) / "clip"), rounds)
    first, later = slice(0, 1), slice(1, None)
    step = statistics.median(value for values in taken["plain"] for value in values)
    lines = [
        f"LLaVA-1.5's own code, B={ROWS}, {SIZES['num_hidden_layers']} layers of {SIZES['hidden_size']}, a tower of 4 "
        f"layers of 128, one CPU thread, {rounds} rounds. A step without VISTA computes for {1000 * step:.0f} ms; "
        "differences within rounds in percent of that, median (quartiles).",
        "",
        "| | first step | steps 2 to 4 |",
        "|---|---|---|",
        *(
            f"| {name} | {compared(taken, arm, other, first)} | {compared(taken, arm, other, later)} |"
            for name, arm, other in (
                ("the proof: VISTA with it, less VISTA without", "proved", "unproved"),
                ("VISTA with the proof, less no VISTA", "proved", "plain"),
            )
        ),
    ]
    print("\n".join(lines))
    write_part("proof_cost.py", "\n".join(lines))


if __name__ == "__main__":
    main()
