"""One run from its description to its JSON; what a worker process does."""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

from settings import Run

#: Steps to a point of the stored training curves.
EVERY = 10
#: Between two records of the real path's log (``--logging_steps`` of the demo's scripts).
LLAVA_EVERY = 5


def result_path(results: Path, run: Run) -> Path:
    return results / f"{run.name}.json"


def execute(run: Run, work: Path, results: Path, device: str = "cpu") -> Path:
    """Train and measure, and write the result; a run whose result is there is not done again.

    What the training prints goes to ``work/logs``.
    """
    path = result_path(results, run)
    if path.exists():
        return path
    log = work / "logs" / f"{run.name.replace('/', '_')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        record = _result(run, work, device)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part-{os.getpid()}")
    part.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    part.rename(path)  # never half a result, however the study ends
    return path


def _result(run: Run, work: Path, device: str) -> dict[str, Any]:
    import torch
    import transformers

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    from measure import measure
    from prepare import prepare

    if run.path == "llava":
        device = "cpu"  # where the demo's scripts train
    setup = prepare(run, work, device)
    begin = time.perf_counter()
    if run.path == "fast":
        import fast

        (model, log), every = fast.train(setup, run, device), 1
    else:
        import real

        (model, log), every = real.train(setup, run, work), LLAVA_EVERY
    trained = time.perf_counter() - begin
    curves = {stage: {key: thinned(values, EVERY // every) for key, values in log[stage].items()} for stage in log}
    return {
        "run": run.record(),
        "split": run.split,
        "measures": rounded(measure(model.to(device), setup, run.split)),
        "log": rounded(curves),
        "log_every": EVERY,
        "train_seconds": round(trained, 1),
        "base": setup.fingerprint,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def thinned(values: list[float], by: int) -> list[float]:
    """Means of consecutive values; what is left over at the end makes a last one."""
    parts = [values[start : start + by] for start in range(0, len(values), by)]
    return [sum(part) / len(part) for part in parts]


def rounded(value: Any) -> Any:
    """Five digits after the point are enough, and NaN is null: results stay small and are plain JSON."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return value
