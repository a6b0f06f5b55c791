"""``llava-vista probe``: how much of a checkpoint's text depends on its image, and how that changes with position.

conversation_samples   samples from LLaVA's JSON or a folder of images, and the words that they mark as visual
hosts/                 LLaVA-1.5's and transformers' own checkpoints: load one, turn image and words into a batch
checkpoint_probe       the checkpoints one after the other, each as a record of its samples
layer_readings, shared_neighbours   attention, neighbourhood agreement
record_comparison, comparison_panels, bootstrap   records side by side and paired: table, figures, intervals
"""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ...errors import ConfigError, ProbeError
from ...hooks.process_signs import PROBE_BATCHES_VARIABLE, PROBE_VARIABLE
from ..kit.argument_types import count

__all__ = ["add_arguments", "run"]

#: What a checkpoint is measured by beside information, margin and own first.
MEASURES = ("attention", "neighbours")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the subcommand's parser."""
    parser.epilog = "Example:\n  llava-vista probe runs/baseline runs/vista --data held-out.json --images images"
    parser.usage = (
        "llava-vista probe [options] CHECKPOINT... | llava-vista probe [options] A.json B.json ... | "
        "llava-vista probe [--output DIR] [--batches K] -- COMMAND"
    )
    add = parser.add_argument
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


def run(args: argparse.Namespace) -> int:
    """Probe the checkpoints or the command's model, or compare records; returns the exit code."""
    if args.command:
        measure_in_host(args)
        return 0
    check_options(args)
    if any(path.suffix == ".json" for path in args.checkpoints):
        from .record_comparison import compare_files as measure
    else:
        from .checkpoint_probe import probe_checkpoints as measure
    measure(args)
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Fill in the names of the checkpoints or records, or raise ConfigError where that cannot be done."""
    paths = options.checkpoints
    if not paths:
        raise ConfigError("give checkpoints to probe, or -- and the command that starts the host's training script.")
    if len({path.suffix == ".json" for path in paths}) > 1:
        raise ConfigError("records (.json) cannot be mixed with checkpoints.")
    options.names = tuple(options.names or short_names(paths))
    if not len(paths) == len(set(paths)) == len(options.names) == len(set(options.names)):
        raise ConfigError(
            f"each of the {len(paths)} needs a name of its own (--names), got {', '.join(options.names)}. Was one "
            "given twice?"
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


def measure_in_host(options: argparse.Namespace) -> None:
    """Run the host's own training script, whose model is then measured instead of trained, and show its record."""
    if options.checkpoints:
        raise ConfigError("checkpoints and a command were given: measure the one or the other.")
    file = Path(options.output).resolve() / "probe.json"
    before = file.stat().st_mtime_ns if file.exists() else None
    variables = {PROBE_VARIABLE: str(file.parent), PROBE_BATCHES_VARIABLE: str(options.batches)}
    code = subprocess.run(options.command, env={**os.environ, **variables}, check=False).returncode
    if code:
        raise ProbeError(f"the command ended with exit code {code}; its own messages say why.")
    if not file.exists() or file.stat().st_mtime_ns == before:
        raise ProbeError(
            f"the command ended without writing {file}: no transformers.Trainer was trained in it, or llava-vista is "
            "not installed in its environment (llava-vista doctor)."
        )
    from .record_comparison import compare, read_records

    compare([("model", record) for record in read_records(file)], options)
    print(f"Samples  {file}")
