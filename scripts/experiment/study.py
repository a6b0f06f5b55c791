"""Time to look: at which step of stage 2 a model begins to read colours from the picture, with each arm.

Stage 2 runs at a constant rate. Every few steps two things are read on held-out scenes in which no object has its
usual colour: the loss on the colours, and what the alignment losses are about. Stage 1 is read too, less often. A run
ends when the loss has stayed below the floor, or at the cap. Arms of a seed share scenes, starting weights and the
order of samples.

    python scripts/experiment/study.py --seeds 20 [--settings main ...] [--arms l2-1 ...] [--workers 2] [--reduced]

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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from settings import ARMS, EVERY, FLOOR, REDUCED, SETTINGS, STAYS, Run

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
#: Steps of stage 1 between readings.
PRETRAIN_EVERY = 40
#: Digits of a stored value: margins are some 1e-5 of a loss.
DIGITS = 5


def planned(seeds: int, settings: Sequence[str], arms: Sequence[str], reduced: bool) -> Iterator[tuple[str, Run]]:
    """Yield (setting, run), seed by seed, so that a study that is stopped has whole pairs."""
    for seed in range(seeds):
        for name in settings:
            setting = SETTINGS[name]
            sizes = replace(setting.sizes, **REDUCED) if reduced else setting.sizes
            for arm in setting.arms:
                if arm in arms:
                    yield name, Run(seed, ARMS[arm], setting.world, sizes)


def path_of(results: Path, setting: str, run: Run) -> Path:
    return results / setting / f"{run.arm.name}_seed{run.seed}.json"


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


def look(setup: Any, run: Run, device: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train one arm as LLaVA's two stages do, with a constant rate in stage 2, and return the readings of each."""
    import torch
    from encode import Encoded, Encoder
    from held_out import HeldOut
    from model import build_model
    from stages import constant_with_warmup, cosine_with_warmup, train_stage

    encoder = Encoder(setup.tokenizer)
    torch.manual_seed(run.seed)
    model: Any = build_model(setup).to(device)
    held_out = HeldOut(model, setup)
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

    rows = Encoded(setup.records["pretrain"], encoder.plain)
    train_stage(model, setup, run, rows, cosine_with_warmup, read_pretrain, projector_only=True)
    rows = Encoded(setup.records["finetune"], encoder.v1)
    train_stage(model, setup, run, rows, constant_with_warmup, read_finetune, projector_only=False)
    return pretrain, finetune


def execute(setting: str, run: Run, work: Path, results: Path, device: str = "cpu") -> Path:
    """Do one run and write its result, unless it is there."""
    path = path_of(results, setting, run)
    if path.exists():
        return path
    import torch
    from prepare import prepare

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    begin, setup = time.perf_counter(), prepare(run, work, device)
    if SETTINGS[setting].pipeline == "llava":
        import real

        pretrain, finetune = real.look(setup, run, work, EVERY)
    else:
        pretrain, finetune = look(setup, run, device)
    result = {
        "setting": setting,
        "run": asdict(run),
        "pretrain": rounded(pretrain),
        "readings": rounded(finetune),
        "steps_to_1": first_below(finetune, 1.0),
        "steps_to_0.3": first_below(finetune, 0.3),
        "converged": has_looked(finetune),
        "cap": run.sizes.finetune_steps,
        "seconds": round(time.perf_counter() - begin, 1),
        "base": setup.fingerprint,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part-{os.getpid()}")
    part.write_text(json.dumps(result, separators=(",", ":")) + "\n")
    part.rename(path)  # never half a result, however the study ends
    return path


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20, help="paired seeds (default 20)")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["main"], help="(default: main)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="(default: all of the setting)")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one thread each (default 1)")
    parser.add_argument("--device", default="cpu", help="for the setting large: cuda (default cpu)")
    parser.add_argument("--reduced", action="store_true", help="a few steps: does the machinery work?")
    parser.add_argument("--work", type=Path, default=HERE / "work", help="set-ups (default: work/ beside this file)")
    parser.add_argument("--results", type=Path, help="(default: results/ beside this file)")
    args = parser.parse_args(given)
    results = args.results or (args.work / "results-reduced" if args.reduced else RESULTS)
    runs = list(planned(args.seeds, args.settings, args.arms, args.reduced))
    left = [(setting, run) for setting, run in runs if not path_of(results, setting, run).exists()]
    print(f"{len(runs) - len(left)} of {len(runs)} runs are done", flush=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}  # of the workers
    begin = time.perf_counter()
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {
            pool.submit(execute, setting, run, args.work, results, args.device): (setting, run) for setting, run in left
        }
        for count, job in enumerate(as_completed(jobs), start=1):
            job.result()
            setting, run = jobs[job]
            minutes = (time.perf_counter() - begin) / 60
            print(f"{count} of {len(left)}: {setting} {run.arm.name} seed {run.seed}; {minutes:.1f} min", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
