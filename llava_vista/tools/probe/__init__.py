"""``llava-vista probe``: what does a checkpoint's text know of its image, and how does that change with position?

plan       the options
data       samples from LLaVA's JSON or a folder of images
hosts/     how a family's checkpoints are loaded and asked
looking    one forward pass, looked into through `llava_vista.attach`
blinding   what "no image" means
measures/  visual information, alignment, attention, neighbourhood agreement
bootstrap  means with confidence over samples
examine    one checkpoint, batch by batch
figure, summary, results   what comes out
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .plan import MEASURES, NO_IMAGE, Plan, short_names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``llava-vista probe``."""
    parser.add_argument(
        "checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="folders, as training saves them"
    )
    parser.add_argument("--data", type=Path, metavar="FILE", help="JSON in LLaVA's format; without it, see --images")
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="folder of the data's images (default: the data file's own); without --data, every image in it is "
        "described by the model itself",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("vista-probe"), metavar="DIR", help="gets probe.json, .png, .svg"
    )
    parser.add_argument(
        "--no-image",
        choices=tuple(NO_IMAGE),
        default="masked",
        help="what the image is compared with: " + "; ".join(f"{name} = {text}" for name, text in NO_IMAGE.items()),
    )
    parser.add_argument(
        "--measures", nargs="+", choices=MEASURES, default=MEASURES, help="what to measure (default: all)"
    )
    parser.add_argument(
        "--samples", type=int, default=200, metavar="N", help="at most so many, at random (default 200)"
    )
    parser.add_argument("--batch-size", type=int, default=4, metavar="B", help="samples at a time (default 4)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="T", help="length of the model's own answers (default 128)"
    )
    parser.add_argument("--base", type=Path, metavar="DIR", help="language model of a projector or LoRA checkpoint")
    parser.add_argument(
        "--template",
        help="conversation template of the host (default: what its family is tuned with; plain for stage 1)",
    )
    parser.add_argument("--tower", metavar="NAME", help="timm model to compare neighbourhoods with, not the own tower")
    parser.add_argument("--names", nargs="+", help="what to call the checkpoints in the figure")
    parser.add_argument("--device", help="as torch names it (default: cuda if there is one, else cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="precision (default: float32 on a CPU, else bfloat16)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of samples, shuffling and resampling")


def run(args: argparse.Namespace) -> int:
    """Probe the checkpoints; returns the exit code."""
    from .command import run_probe

    options = vars(args)
    plan = Plan(
        checkpoints=tuple(args.checkpoints),
        names=tuple(args.names or short_names(args.checkpoints)),
        measures=tuple(name for name in MEASURES if name in args.measures),
        **{
            name: options[name]
            for name in (
                "data", "images", "no_image", "samples", "batch_size", "max_new_tokens", "base", "template", "tower",
                "device", "dtype", "seed",
            )
        },
    )  # fmt: skip
    run_probe(plan, args.output)
    return 0
