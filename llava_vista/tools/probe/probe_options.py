"""The options of ``llava-vista probe``. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConfigError
from ..kit.argument_types import count

#: What a checkpoint is measured by beside information, margin and own first.
MEASURES = ("attention", "neighbours")
RESAMPLES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the subcommand's parser."""
    parser.epilog = "Example:\n  llava-vista probe runs/baseline runs/vista --data held-out.json --images images"
    add = parser.add_argument
    parser.usage = (
        "llava-vista probe [options] CHECKPOINT... | llava-vista probe [options] A.json B.json ... | "
        "llava-vista probe [--output DIR] [--batches K] -- COMMAND"
    )
    add("checkpoints", nargs="*", type=Path, metavar="CHECKPOINT", help="folders, as training saves them; or "
        "after -- the command of the host's training script: its model is measured on its own batches; or the "
        "probe.json files of such scripts, compared with the first")  # fmt: skip
    add("--batches", type=count, default=16, metavar="K", help="with -- COMMAND: batches on each rank (default 16)")
    add("--data", type=Path, metavar="FILE", help="JSON in LLaVA's format; without it, see --images")
    add("--images", type=Path, metavar="DIR", help="folder of the data's images (default: the data file's own); "
        "without --data, the model describes every image in it")  # fmt: skip
    add("--output", type=Path, default="vista-probe", metavar="DIR", help="gets probe.json, comparison.json, figures")
    add("--measures", nargs="+", choices=("information", *MEASURES), default=MEASURES, help="what to measure of "
        "checkpoints beside information, margin and own first, which always are (default: all)")  # fmt: skip
    add("--samples", type=count, default=200, metavar="N", help="at most so many, at random (default 200)")
    add("--batch-size", type=count, default=4, metavar="B", help="samples at a time (default 4)")
    add("--max-new-tokens", type=count, default=128, metavar="T", help="of the model's own answers (default 128)")
    add("--base", type=Path, metavar="DIR", help="language model of a projector or LoRA checkpoint")
    add("--template", help="conversation template of the host (default: its family's for tuning; plain for stage 1)")
    add("--tower", metavar="NAME", help="timm model to compare neighbourhoods with, instead of the own tower")
    add("--names", nargs="+", help="names of the checkpoints in the figure (default: what differs in their paths)")
    add("--device", help="as torch names it (default: cuda if available, else cpu)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="precision (default: float32 on a CPU, else "
        "bfloat16)")  # fmt: skip
    add("--seed", type=int, default=0, help="of the choice of samples and of resampling (default 0)")


def check_options(options: argparse.Namespace) -> None:
    """Fill in the names of the checkpoints.

    Raises:
        ConfigError: a value is out of range.
    """
    if not options.checkpoints:
        raise ConfigError("give checkpoints to probe, or -- and the command that starts the host's training script.")
    options.names = tuple(options.names or short_names(options.checkpoints))
    many = len(options.checkpoints)
    if len(set(options.checkpoints)) < many:
        raise ConfigError("a checkpoint was given twice.")
    if len(options.names) != many or len(set(options.names)) < many:
        raise ConfigError(
            f"--names must give each of the {many} checkpoints a name of its own, got {', '.join(options.names)}."
        )


def short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the parts of the paths that differ; one path keeps its last two parts."""
    parts = [path.absolute().parts for path in paths]
    if len(parts) == 1:
        return ("/".join(parts[0][-2:]),)
    shortest = min(len(part) for part in parts)
    head = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest - 1)
    tail = next((i for i in range(shortest - head) if len({part[-1 - i] for part in parts}) > 1), 0)
    return tuple("/".join(part[head : len(part) - tail]) for part in parts)
