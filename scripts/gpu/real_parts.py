"""Parts "real" and "study": LLaVA's own training, a timm tower in the probe, and the experiment with a larger model."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from findings import Findings, NotRun, Options, require
from limited_process import TIMED_OUT, run_limited

EXPERIMENT = Path(__file__).parents[1] / "experiment"
#: LLaVA's trainer imports this much of DeepSpeed when it saves, also where DeepSpeed is not used.
DEEPSPEED = {
    "deepspeed/__init__.py": "from . import zero\n",
    "deepspeed/zero.py": "class GatheredParameters: ...\n",
    "deepspeed/runtime/__init__.py": "",
    "deepspeed/runtime/zero/__init__.py": "",
    "deepspeed/runtime/zero/partition_parameters.py": "class ZeroParamStatus:\n    NOT_AVAILABLE = 0\n",
}


def run_real(findings: Findings, options: Options) -> None:
    """Run both. What the environment lacks is said, not installed."""
    with findings.attempt("LLaVA-1.5's own llava.train, both stages, baseline and VISTA"):
        train_llava(findings, options)
    with findings.attempt("timm tower of the probe"):
        read_timm_tower(findings, torch.device(options.device))


def train_llava(findings: Findings, options: Options) -> None:
    """Run the quick demo, which trains LLaVA's own code, from the wheels or from this environment."""
    with tempfile.TemporaryDirectory() as name:
        site = Path(name) / "site"
        if options.wheels is not None:
            wheels = [str(wheel) for wheel in sorted(options.wheels.glob("*.whl"))]
            install = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-index",
                "--no-deps",
                "--target",
                str(site),
            ]
            subprocess.run([*install, *wheels], check=True)
            for path, text in DEEPSPEED.items():
                (site / path).parent.mkdir(parents=True, exist_ok=True)
                (site / path).write_text(text)
        elif importlib.util.find_spec("llava") is None:
            raise NotRun("LLaVA is not installed; carry its wheels and name their folder with --wheels")
        words = ["-m", "llava_vista.cli", "demo", "--quick", "--output", str(Path(name) / "demo")]
        path = os.pathsep.join([str(site), os.environ["PYTHONPATH"]])
        code = run_limited([sys.executable, *words], options.seconds - 20, options.out / "log.txt", PYTHONPATH=path)
        require(code == 0, f"exit code {code}; see log.txt")
        findings.add("LLaVA-1.5's own llava.train, both stages, baseline and VISTA", "trains, saves and answers")


def read_timm_tower(findings: Findings, device: torch.device) -> None:
    """Save a ViT with random weights as timm does, and compare the probe's features with the model's own."""
    missing = [name for name in ("timm", "torchvision", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotRun(f"not installed: {', '.join(missing)}")
    import timm
    from PIL import Image

    from llava_vista.tools.probe.measures.shared_neighbours import TimmTower

    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2}
    with tempfile.TemporaryDirectory() as folder:
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **sizes)
        timm.models.save_for_hf(model, folder, model_args=sizes)
        tower = TimmTower(f"local-dir:{folder}", device)
        images = [Image.new("RGB", shape, colour) for shape, colour in (((40, 60), "red"), ((32, 32), "blue"))]
        found = tower.features(images)
        with torch.no_grad():
            expected = model.eval().to(device)(torch.stack([tower.transform(image) for image in images]).to(device))
    error = float((found - expected).abs().max())
    require(found.shape == (2, 16) and error < 1e-4, f"features {tuple(found.shape)} differ by {error:.1e}")
    findings.add("timm tower of the probe", f"features to {error:.0e} of the model's own, timm {timm.__version__}")


def run_study(findings: Findings, options: Options) -> None:
    """Train runs of the experiment's large arm until the time is over, and write those that are done to study.json."""
    check = "scripts/experiment, study large"
    with findings.attempt(check), tempfile.TemporaryDirectory() as name:
        if options.device == "cpu":
            raise NotRun("takes days on a CPU")
        results = Path(name) / "results"
        shutil.copytree(EXPERIMENT / "results", results)  # the chosen weights are there
        before = set(results.rglob("*.json"))
        words = [sys.executable, str(EXPERIMENT / "study.py"), "--studies", "large", "--device", options.device]
        words += ["--results", str(results), "--work", str(Path(name) / "work")]
        code = run_limited(words, options.seconds - 20, options.out / "log.txt")
        require(code in (0, TIMED_OUT), f"exit code {code}; see log.txt")
        done = {
            str(path.relative_to(results)): json.loads(path.read_text()) for path in {*results.rglob("*.json")} - before
        }
        (options.out / "study.json").write_text(json.dumps(done, indent=1) + "\n")
        findings.add(check, f"{len(done)} runs done")
