"""Part "study": the experiment's larger model, about 100M parameters and 576 image tokens, as far as the time goes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from findings import NOT_RUN, Findings, NotRun, Options

STUDY = Path(__file__).parents[1] / "experiment" / "study.py"
ARMS = ("baseline", "l2-0.1")
NEEDED = ("sentencepiece", "google", "PIL", "tqdm")  # google: protobuf


def run(findings: Findings, options: Options) -> None:
    """Add each arm's finding. Results stay in the folder ``study``: runs that are there are not done again."""
    with findings.attempt("study, larger model"):
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise NotRun(f"not installed: {', '.join(missing)}")
        folder = findings.path.parent / "study"
        words = ["--settings", "large", "--seeds", "1", "--arms", *ARMS, "--device", options.device]
        words += ["--work", str(folder / "work"), "--results", str(folder)] + ["--reduced"] * options.reduced
        limit = options.seconds - 10  # to end before the part is killed
        try:
            subprocess.run([sys.executable, str(STUDY), *words], check=True, timeout=limit)
        except subprocess.TimeoutExpired:
            findings.add("study, larger model", f"not finished in {limit:.0f} s; name the part alone", status=NOT_RUN)
        for path in sorted((folder / "large").glob("*.json")):
            result = json.loads(path.read_text())
            steps = [f"{nats} nats at step {result[f'steps_to_{nats}'] or 'none'}" for nats in ("1", "0.3")]
            words_found = f"{', '.join(steps)}; {len(result['readings'])} readings in {result['seconds']:.0f} s"
            findings.add(f"study, larger model, {path.stem}", words_found)
