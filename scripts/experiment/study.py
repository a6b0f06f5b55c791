"""Time to look: at which step of stage 2 a model begins to read colours from the picture, with each arm.

Stage 2 runs at a constant rate. Every few steps two things are read on held-out scenes in which no object has its
usual colour: the loss on the colours, and what the alignment losses are about. Stage 1 is read too, less often. A run
ends when the loss has stayed below the floor, or at the cap. Arms of a seed share scenes, starting weights and the
order of samples.

    python scripts/experiment/looking.py --seeds 20 [--arms l2-1 ...] [--workers 2] [--reduced]

Results are one JSON file for each run; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from settings import Arm, Run, Sizes, World

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "looking"
#: Steps between readings, scenes of a reading, nats at which a run has looked, and how often in a row it must be so.
EVERY, SCENES, FLOOR, STAYS = 10, 64, 0.15, 3
#: Steps of stage 1 between readings.
PRETRAIN_EVERY = 40
#: Digits of a stored value: margins are some 1e-5 of a loss.
DIGITS = 5
#: Steps of stage 2 at most. With cross-entropy alone all of the first seeds end well before.
CAP = 640
ARMS = {
    "baseline": Arm(),
    **{f"{method}-{weight:g}": Arm(method, weight) for method in ("l2", "cosine") for weight in (0.01, 0.1, 1.0)},
    **{f"infonce-{weight:g}": Arm("infonce", weight) for weight in (0.01, 0.1)},
}
#: Captions of 110 and 272 tokens for the paper's claim about length (49 is the main world), and a batch of 32.
SETTINGS: dict[str, tuple[World, dict[str, int]]] = {
    "main": (World(), {}),
    "tokens110": (World(filler=1), {}),
    "tokens272": (World(filler=2), {}),
    "batch32": (World(), {"batch": 32}),
}
SIDE_ARMS = ("baseline", "l2-1", "cosine-1", "infonce-0.1")
REDUCED = Sizes(hidden=32, layers=1, heads=2, text_steps=4, text_batch=4, pretrain_steps=3, batch=4, scenes=8)


def planned(seeds: int, arms: Sequence[str], settings: Sequence[str], sizes: Sizes) -> Iterator[tuple[str, Run]]:
    """Yield (setting, run), seed by seed, so that a study that is stopped has whole pairs."""
    for seed in range(seeds):
        for setting in settings:
            world, changes = SETTINGS[setting]
            for name in arms:
                if setting == "main" or name in SIDE_ARMS:
                    yield setting, Run(seed, ARMS[name], world, replace(sizes, **changes))


def path_of(results: Path, setting: str, run: Run) -> Path:
    return results / setting / f"{run.arm.name}_seed{run.seed}.json"


def alignment_of(embeds: Any, hidden: Any, layout: Any) -> dict[str, dict[str, float]]:
    """What the published losses are about, on one batch: the loss, and what is left of it without the image's own part.

    margin: mean of I(own text, S) - mean of I(other samples' texts, S). own_first: share of samples whose own text
    scores highest (chance is 1 / samples). constant: the loss if every S were the mean text centroid.

    Args:
        embeds, hidden: (B, L, d). layout: `llava_vista.SequenceLayout`.
    """
    import torch

    from llava_vista.objective.head import last_image_state

    embeds, anchors = embeds.double(), last_image_state(hidden, layout.image).double()
    count = layout.text.sum(dim=1, keepdim=True).double()
    weights = layout.text.cumsum(dim=1) / count / count * layout.text  # (B, L), t / m of each text token, over m
    found = {}
    for method in ("l2", "cosine"):
        x = torch.nn.functional.normalize(embeds, dim=-1) if method == "cosine" else embeds
        bag, weight = torch.einsum("bl,bld->bd", weights, x), weights.sum(dim=1)
        square = torch.einsum("bl,bld->b", weights, x.square())

        def information(
            states: Any, method: str = method, bag: Any = bag, weight: Any = weight, square: Any = square
        ) -> Any:
            """I of every state with every sample's text: (states, texts)."""
            if method == "cosine":
                return torch.nn.functional.normalize(states, dim=-1) @ bag.T
            near = square[None] - 2 * states @ bag.T + states.square().sum(dim=1, keepdim=True) * weight[None]
            return -near / states.shape[-1]

        scores = information(anchors)
        own, size = scores.diagonal(), len(scores)
        centroid = (bag / weight[:, None]).mean(dim=0, keepdim=True)
        found[method] = {
            "loss": -float(own.mean()),
            "margin": float((own - (scores.sum(dim=1) - own) / (size - 1)).mean()),
            "own_first": float((scores.argmax(dim=1) == torch.arange(size)).double().mean()),
            "constant": -float(information(centroid).mean()),
        }
    return found


class HeldOut:
    """Held-out scenes of a set-up; reading them leaves the model's gradients, mode and random state alone."""

    def __init__(self, model: Any, setup: Any, run: Run) -> None:
        import torch
        from encode import IGNORE, Encoder
        from model import make_batch

        from llava_vista.attach.observation import Observer, Recorder

        encoder = Encoder(setup.tokenizer)
        rows = [encoder.v1(record) for record in setup.records[f"{run.split}/breaking"][:SCENES]]
        self.model, self.batch = model, make_batch(rows, setup.features)
        labels = self.batch["labels"][:, 1:]
        self.colors = torch.isin(labels, torch.tensor(encoder.color_ids)) & (labels != IGNORE)
        recorder = Recorder()
        observer = Observer(model, recorder)
        try:
            self._forward()
        finally:
            observer.remove()
        if recorder.last is None or recorder.last.layout is None:
            raise RuntimeError("the held-out batch was not observed.")
        self.layout = recorder.last.layout  # one batch, one layout: no observer is needed beside an arm's own

    def _forward(self) -> Any:
        import torch

        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                return self.model(**self.batch, output_hidden_states=True)
        finally:
            self.model.train(training)

    def read(self, step: int) -> dict[str, Any]:
        """Return one reading."""
        import torch

        output, wanted = self._forward(), self.batch["labels"][:, 1:]
        logits = output.logits[:, :-1].float()
        logits = logits[:, -wanted.shape[1] :]  # where the host expands images inside its forward, text is at the end
        nll = torch.nn.functional.cross_entropy(logits[self.colors], wanted[self.colors])
        alignment = alignment_of(output.hidden_states[0], output.hidden_states[-1], self.layout)
        return {"step": step, "color_nll": float(nll), **alignment}


def rounded(value: Any) -> Any:
    """Return plain JSON with few significant digits; what is not finite is null."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value


def has_looked(readings: Sequence[dict[str, Any]]) -> bool:
    last = readings[-STAYS:]
    return len(last) == STAYS and all(value["color_nll"] < FLOOR for value in last)


def first_below(readings: Sequence[dict[str, Any]], nats: float) -> int | None:
    """Return the step of the first reading below a loss; None where there is none."""
    return next((value["step"] for value in readings if value["color_nll"] < nats), None)


def look(run: Run, work: Path) -> dict[str, Any]:
    """Train one arm as LLaVA's two stages do, with a constant rate in stage 2, and return its readings."""
    import fast
    import torch
    from encode import Encoder
    from model import build_model
    from prepare import prepare

    torch.set_num_threads(1)
    setup, begin = prepare(run, work), time.perf_counter()
    encoder = Encoder(setup.tokenizer)
    torch.manual_seed(run.seed)
    model: Any = build_model(setup)
    held_out = HeldOut(model, setup, run)
    pretrain: list[dict[str, Any]] = []
    finetune: list[dict[str, Any]] = []

    def read_pretrain(step: int) -> bool:
        if step % PRETRAIN_EVERY == 0:
            pretrain.append(held_out.read(step))
        return False

    def read_finetune(step: int) -> bool:
        if step % EVERY == 0:
            finetune.append(held_out.read(step))
        return has_looked(finetune)

    rows = [encoder.plain(record) for record in setup.records["pretrain"]]
    fast.train_stage(model, setup, run, "pretrain", rows, fast.cosine_with_warmup, read_pretrain)
    rows = [encoder.v1(record) for record in setup.records["finetune"]]
    fast.train_stage(model, setup, run, "finetune", rows, fast.constant_with_warmup, read_finetune)
    return {
        "run": run.record(),
        "pretrain": rounded(pretrain),
        "readings": rounded(finetune),
        "steps_to_1": first_below(finetune, 1.0),
        "steps_to_0.3": first_below(finetune, 0.3),
        "converged": has_looked(finetune),
        "cap": run.sizes.finetune_steps,
        "seconds": round(time.perf_counter() - begin, 1),
        "base": setup.fingerprint,
        "torch": torch.__version__,
    }


def execute(setting: str, run: Run, work: Path, results: Path) -> Path:
    """Do one run and write its result, unless it is there."""
    path = path_of(results, setting, run)
    if not path.exists():
        result = look(run, work)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".part-{os.getpid()}")
        part.write_text(json.dumps({"setting": setting, **result}, separators=(",", ":")) + "\n")
        part.rename(path)
    return path


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="paired seeds (default 20)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="(default: all)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["main"], help="(default: main)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each (default 1)")
    parser.add_argument("--reduced", action="store_true", help="a few steps: does the machinery work?")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="set-ups (default: work/ beside this file)")
    parser.add_argument("--results", type=Path, help="(default: results/looking/ beside this file)")
    args = parser.parse_args(given)
    sizes = replace(REDUCED, finetune_steps=2 * EVERY) if args.reduced else replace(Sizes(), finetune_steps=CAP)
    results = args.results or (args.work / "looking-reduced" if args.reduced else RESULTS)
    runs = list(planned(args.seeds, args.arms, args.settings, sizes))
    left = [(setting, run) for setting, run in runs if not path_of(results, setting, run).exists()]
    print(f"{len(runs) - len(left)} of {len(runs)} runs are done", flush=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # of the workers
    begin = time.perf_counter()
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {pool.submit(execute, setting, run, args.work, results): (setting, run) for setting, run in left}
        for count, job in enumerate(as_completed(jobs), start=1):
            job.result()
            setting, run = jobs[job]
            minutes = (time.perf_counter() - begin) / 60
            print(f"{count} of {len(left)}: {setting} {run.arm.name} seed {run.seed}; {minutes:.1f} min", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
