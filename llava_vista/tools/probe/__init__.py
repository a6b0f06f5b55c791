"""``llava-vista probe``: how much of a checkpoint's text depends on its image, and how that changes with position.

probe_options         the options
conversation_samples  samples from LLaVA's JSON or a folder of images
hosts/                a model family: load a checkpoint, turn image and words into a batch
forward_trace         one forward pass, observed through `llava_vista.attach`
measures/             visual information, alignment, attention, neighbourhood agreement
bootstrap             means with intervals over samples
host_command          the host's own training script, with its model measured instead of trained
host_records          records of such scripts, side by side and paired
checkpoint_probe      the checkpoints one after the other, batch by batch, and the files written
probe_table, probe_panels   the results as a table and as a figure
"""

from __future__ import annotations

import argparse

from .probe_options import add_arguments, check_options

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Probe the checkpoints; returns the exit code."""
    if args.command:
        from .host_command import measure_in_host

        measure_in_host(args)
        return 0
    if any(path.suffix == ".json" for path in args.checkpoints):
        from .host_records import compare_records

        compare_records(args)
        return 0
    check_options(args)
    from .checkpoint_probe import run_probe

    run_probe(args)
    return 0
