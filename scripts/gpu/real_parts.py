"""Part "real": LLaVA's own training."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from findings import Findings, NotRun, Options, require

#: Beside the wheels: the start-up hook, which only an installed package has as a .pth file, and what LLaVA's trainer
#: imports of DeepSpeed when it saves, also where DeepSpeed is not used.
FILES = {
    "sitecustomize.py": "from llava_vista.hooks import llava_vista_startup\n\nllava_vista_startup.start()\n",
    "deepspeed/__init__.py": "from . import zero\n",
    "deepspeed/zero.py": "class GatheredParameters: ...\n",
    "deepspeed/runtime/__init__.py": "",
    "deepspeed/runtime/zero/__init__.py": "",
    "deepspeed/runtime/zero/partition_parameters.py": "class ZeroParamStatus:\n    NOT_AVAILABLE = 0\n",
}


def run(findings: Findings, options: Options) -> None:
    """Run it. What the environment lacks is said, not fetched."""
    with findings.attempt("LLaVA-1.5's own llava.train"):
        findings.add("LLaVA-1.5's own llava.train", train_llava(options))


def train_llava(options: Options) -> str:
    """Run the quick demo, which trains LLaVA's own code, from carried wheels or from this environment."""
    with tempfile.TemporaryDirectory() as name:
        site = Path(name) / "site"
        if options.wheels is not None:
            install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target"]
            subprocess.run([sys.executable, *install, site, *options.wheels.glob("*.whl")], check=True)
            for path, text in FILES.items():
                (site / path).parent.mkdir(parents=True, exist_ok=True)
                (site / path).write_text(text)
        elif importlib.util.find_spec("llava") is None:
            raise NotRun("LLaVA is not installed; carry its wheels and name their folder with --wheels")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ["PYTHONPATH"]])}
        words = [sys.executable, "-m", "llava_vista.cli", "demo", "--quick", "--output", str(Path(name) / "demo")]
        code = subprocess.run(words, env=environment, check=False).returncode
        require(code == 0, f"exit code {code}; see log.txt")
    return "both stages, baseline and VISTA: trained, saved, loaded by stock LLaVA"
