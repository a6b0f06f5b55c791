"""``llava-vista probe``: how much of a checkpoint's text depends on its image, and how that changes with position.

probe_options          the options
conversation_samples   samples from LLaVA's JSON or a folder of images
hosts/                 LLaVA-1.5's and transformers' own checkpoints: load one, turn image and words into a batch
checkpoint_probe       the checkpoints one after the other, each as a record of its samples
layer_readings, shared_neighbours, answer_words   attention, neighbourhood agreement, words marked as visual
host_command           the host's own training script, with its model measured instead of trained
record_comparison, comparison_panels, bootstrap   records side by side and paired: table, figures, intervals
"""

from __future__ import annotations

import argparse

from .probe_options import add_arguments, check_options

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Probe the checkpoints; returns the exit code."""
    if args.command:
        from .host_command import measure_in_host as measure
    elif any(path.suffix == ".json" for path in args.checkpoints):
        from .record_comparison import compare_files as measure
    else:
        check_options(args)
        from .checkpoint_probe import probe_checkpoints as measure
    measure(args)
    return 0
