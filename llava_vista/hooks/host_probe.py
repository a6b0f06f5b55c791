"""``LLAVA_VISTA_PROBE=DIR``: instead of training, measure the host's model on the host's own batches.

The host's script builds the model, the data and the trainer as for a training. `Trainer.train` then goes over some
batches of its data loader, writes ``DIR/probe.json``, and ends the process before the host saves anything.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..config import VistaConfig
from ..errors import ProbeError
from ..logging import say, warn_once
from .probed_samples import SampleProbe, make_record, write_json
from .process_signs import PROBE_BATCHES_VARIABLE, PROBE_VARIABLE
from .refusals import refuse_what_cannot_be


def probe_instead(trainer: Any, config: VistaConfig, resume: Any) -> NoReturn:
    """Measure, write the record on rank 0, and end the process. Collective: every rank must call.

    Args:
        config: of the estimator that margin and own first are measured with.
        resume: what `Trainer.train` was given as ``resume_from_checkpoint``.
    """
    from accelerate.utils import gather_object

    batches = os.environ.get(PROBE_BATCHES_VARIABLE) or "16"
    refuse(trainer, resume)
    if not batches.isdigit() or int(batches) < 1:
        raise ProbeError(f"{PROBE_BATCHES_VARIABLE} must be a whole number above 0, got {batches!r}.")
    rank, found = trainer.args.process_index, measure_batches(trainer, config, int(batches))
    samples = gather_object([{"rank": rank, **sample} for sample in found])
    if not samples:
        raise ProbeError("no sample of these batches has an image and supervised text: there is nothing to measure.")
    if trainer.is_world_process_zero():
        more = {"model": getattr(trainer.model.config, "_name_or_path", ""), "seed": trainer.args.seed}
        record = make_record(trainer.model, config, samples, ranks=trainer.args.world_size, **more)
        file = write_json(Path(os.environ[PROBE_VARIABLE]), "probe.json", record)
        say(f"{PROBE_VARIABLE}: {len(samples)} samples measured, {file} written; no training.")
    trainer.accelerator.wait_for_everyone()  # no rank ends before the record is written
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a host may save in a `finally`, which SystemExit would run


def refuse(trainer: Any, resume: Any) -> None:
    """Raise ProbeError where the trainer's model is not the one that the user means, or cannot be run by itself."""
    refuse_what_cannot_be(trainer, VistaConfig(weight=0), PROBE_VARIABLE, ())  # an observer takes any objective
    model, output = trainer.model, Path(trainer.args.output_dir).resolve()
    if resume:
        raise ProbeError(
            f"this script resumes from a checkpoint (resume_from_checkpoint={resume!r}), which is loaded only while it "
            "trains, so the model is not the trained one yet. Give the checkpoint as the model, and another output_dir "
            f"than {output}."
        )
    stage = getattr(getattr(trainer.accelerator.state, "deepspeed_plugin", None), "zero_stage", 0)
    if stage == 3 or any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        raise ProbeError(
            "with ZeRO-3 no rank holds the whole model before training begins. Start the same command with a ZeRO-2 "
            "configuration, or without DeepSpeed."
        )
    adapters = [value for name, value in model.named_parameters() if ".lora_B." in name]
    if adapters and not any(bool(value.any()) for value in adapters):
        raise ProbeError(
            "the LoRA adapter is all zero: the script made a fresh one in the place of the trained one. Merge the "
            "trained adapter into the model, give that as the model, and leave LoRA out."
        )
    named = getattr(model.config, "_name_or_path", "")
    source = Path(named).resolve() if named and Path(named).is_dir() else None
    if source is not None and output in (source, *source.parents) and any(output.iterdir() if output.is_dir() else ()):
        raise ProbeError(f"output_dir {output} holds the checkpoint {source}, and the script may write there. Give it "
                         "another output_dir.")  # fmt: skip


def measure_batches(trainer: Any, config: VistaConfig, batches: int) -> list[dict[str, Any]]:
    """Go over so many batches of the host's own loader; return a record of each sample with an image."""
    arguments, accelerator, model = trainer.args, trainer.accelerator, trainer.model
    loader, probe = trainer.get_train_dataloader(), SampleProbe(model, config)
    if next(model.parameters()).device != arguments.device and not hasattr(model, "hf_device_map"):
        model.to(arguments.device)
    model.eval()
    samples: list[dict[str, Any]] = []
    for number, inputs in enumerate(loader):
        if number == batches:
            break
        # The check of a family that is not known by name needs gradients.
        with torch.set_grad_enabled(number == 0 and probe.observer.adapter.fallback), accelerator.autocast():
            loss = trainer.compute_loss(model, trainer._prepare_inputs(inputs))
        samples += [{"batch": number, **sample.record} for sample in probe.take(loss)]
    probe.observer.remove()
    if probe.left_out:
        warn_once(f"{PROBE_VARIABLE}: {probe.left_out} samples without an image or supervised text are left out.")
    return samples
