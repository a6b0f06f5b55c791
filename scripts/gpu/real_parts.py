"""Part "real": LLaVA's own training, and a timm tower in the probe."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
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
    """Run both. What the environment lacks is said, not fetched."""
    for check, function in {"LLaVA-1.5's own llava.train": train_llava, "timm tower of the probe": read_tower}.items():
        with findings.attempt(check):
            findings.add(check, function(options))


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


def read_tower(options: Options) -> str:
    """Save a ViT with random weights as timm does, and compare the probe's features with the model's own."""
    missing = [name for name in ("timm", "torchvision", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        raise NotRun(f"not installed: {', '.join(missing)}")
    import timm
    from PIL import Image

    from llava_vista.tools.kit.timm_tower import TimmTower

    sizes = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2}
    with tempfile.TemporaryDirectory() as folder:
        model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0, **sizes)
        timm.models.save_for_hf(model, folder, model_args=sizes)
        tower = TimmTower(f"local-dir:{folder}", torch.device(options.device))
    images = [Image.new("RGB", shape, colour) for shape, colour in (((40, 60), "red"), ((32, 32), "blue"))]
    with torch.no_grad():
        expected = model.eval()(torch.stack([tower.transform(image) for image in images]))
    error = float((tower.features(images).cpu() - expected).abs().max())
    require(error < 1e-3, f"features differ by {error:.1e}")
    return f"features to {error:.0e} of the model's own on the CPU, timm {timm.__version__}"
