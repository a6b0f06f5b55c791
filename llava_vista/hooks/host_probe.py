"""``LLAVA_VISTA_PROBE=DIR``: instead of training, measure the host's model on the host's own batches.

The host's script builds the model, the data and the trainer as for a training. `Trainer.train` then goes over some
batches of its data loader, writes ``DIR/probe.json``, and ends the process before the host saves anything.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from .. import __version__
from ..attach.observation import Observation, Observer
from ..config import VistaConfig
from ..errors import ProbeError
from ..logging import say, warn_once
from ..objective import AlignmentHead, Text
from .image_information import Information, measure, output_head, slope_sums
from .process_signs import PROBE_BATCHES_VARIABLE, PROBE_VARIABLE
from .refusals import refuse_what_cannot_be
from .run_record import versions

FILE_NAME = "probe.json"
BATCHES = 16
#: Last position of each bin; a position is the number of the supervised token in its sample.
BIN_ENDS = tuple(2**power for power in range(16))


def probe_instead(trainer: Any, config: VistaConfig, resume: Any) -> NoReturn:
    """Measure, write the record on rank 0, and end the process. Collective: every rank must call.

    Args:
        trainer: the host's, before training.
        config: of the estimator that margin and own first are measured with.
        resume: what `Trainer.train` was given as ``resume_from_checkpoint``.

    Raises:
        ProbeError: this model or set-up cannot be measured.
        VistaError: the model or its layout is not known.
    """
    folder = Path(os.environ[PROBE_VARIABLE])
    refuse(trainer, resume)
    samples, sums = HostProbe(trainer, config).measure(_batches())
    ranks = _gather((samples, sums))
    if trainer.is_world_process_zero():
        record = make_record(trainer, config, ranks)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE_NAME).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        say(f"{PROBE_VARIABLE}: {len(record['samples'])} samples measured, {folder / FILE_NAME} written; no training.")
    _gather(None)  # no rank ends before the record is written
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a host may save in a `finally`, which SystemExit would run


def _batches() -> int:
    text = os.environ.get(PROBE_BATCHES_VARIABLE) or str(BATCHES)
    if not text.isdigit() or int(text) < 1:
        raise ProbeError(f"{PROBE_BATCHES_VARIABLE} must be a whole number above 0, got {text!r}.")
    return int(text)


def _gather(value: Any) -> list[Any]:
    """Return the value of every rank. A collective."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def refuse(trainer: Any, resume: Any) -> None:
    """Stop where the model in the trainer is not the one that the user means, or cannot be run by itself.

    Raises:
        VistaError: names what was found.
    """
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


class HostProbe:
    """Listens to the decoder passes of a model in evaluation mode.

    Args:
        trainer: the host's.
        config: of the estimator.

    Raises:
        VistaError: the model is not known, or has no logits to measure.
    """

    def __init__(self, trainer: Any, config: VistaConfig) -> None:
        self.trainer, self.model = trainer, trainer.model
        self._head = AlignmentHead(config).eval()
        self._observer = Observer(self.model, self)
        self._logits: nn.Module = output_head(self._observer.inner)
        self._passes: list[tuple[Text, Tensor, Information, list[int]]] = []
        self._left_out = 0
        #: Sxy, Sxx of the slope
        self._slope = [0.0, 0.0]

    def measure(self, batches: int) -> tuple[list[dict[str, Any]], list[float]]:
        """Go over so many batches; return a record for each sample with an image, and Sxy and Sxx of the slope.

        Raises:
            ProbeError: the logits are not the host's, or no sample could be measured.
        """
        arguments, accelerator = self.trainer.args, self.trainer.accelerator
        loader = self.trainer.get_train_dataloader()
        if next(self.model.parameters()).device != arguments.device and not hasattr(self.model, "hf_device_map"):
            self.model.to(arguments.device)
        self.model.eval()
        samples: list[dict[str, Any]] = []
        for number, inputs in enumerate(loader):
            if number == batches:
                break
            # The check of a family that is not known by name needs gradients.
            with torch.set_grad_enabled(number == 0 and self._observer.adapter.fallback), accelerator.autocast():
                loss = self.trainer.compute_loss(self.model, self.trainer._prepare_inputs(inputs))
            samples += [{"batch": number, **sample} for sample in self._samples(loss)]
        self._observer.remove()
        if self._left_out:
            warn_once(f"{PROBE_VARIABLE}: {self._left_out} samples without an image or supervised text are left out.")
        return samples, self._slope

    # --- listener of the decoder passes ---

    def decoder_called(self, observation: Observation) -> None:
        """Nothing: all is known when the decoder has returned."""

    def decoder_returned(self, observation: Observation) -> None:
        embeds, hidden, layout = observation.inputs_embeds, observation.last_hidden_state, observation.layout
        if embeds is None or hidden is None:
            self._left_out += 0 if hidden is None else len(hidden)
            return
        found = measure(self._observer, self._logits, observation, again=False)
        if observation.problem is not None or isinstance(found, str) or layout is None or observation.labels is None:
            raise ProbeError(f"a batch cannot be measured: {observation.problem or found}.")
        if found is None:
            self._left_out += len(embeds)
            return
        with torch.no_grad():
            text = self._head.read_text(embeds, layout)
            anchors = self._head.anchor(hidden, layout, text)
        known = observation.token_ids if observation.token_ids is not None else observation.labels
        marks = [
            zlib.crc32(str(row[at.to(row.device)].tolist()).encode())
            for row, at in zip(known, layout.text, strict=True)
        ]
        self._passes.append((text, anchors, found, marks))

    def _samples(self, loss: Any) -> list[dict[str, Any]]:
        """Return the records of the passes of one batch, and release them."""
        passes, self._passes = self._passes, []
        if not passes:
            return []
        loss = loss[0] if isinstance(loss, tuple) else loss
        _check_cross_entropy(loss, [item[2] for item in passes])
        text = Text.joined([item[0] for item in passes])
        own = self._head.compare(torch.cat([item[1] for item in passes]), text)
        margins, firsts, chances, compared = (values.tolist() for values in own)
        records, start = [], 0
        for one, _, information, marks in passes:
            for sum_, value in enumerate(slope_sums(information)):
                self._slope[sum_] += float(value)
            for row, mark in enumerate(marks):
                nats, at = information.nats[information.sample == row], start + row
                if not len(nats):
                    self._left_out += 1
                    continue
                has_other = compared[at] > 0
                records.append({
                    "text": f"{mark:08x}",
                    **_binned(nats, information.number[information.sample == row]),
                    "margin": margins[at] if has_other else None,
                    "own_first": firsts[at] if has_other else None,
                    "chance": chances[at] if has_other else None,
                })  # fmt: skip
            start += len(one.valid)
        return records


def _check_cross_entropy(loss: Tensor, passes: list[Information]) -> None:
    """Compare the logits that were measured with the host's by its loss.

    Raises:
        ProbeError: they differ.
    """
    counts = torch.stack([one.supervised for one in passes])
    mean = float((torch.stack([one.cross_entropy for one in passes]) * counts).sum() / counts.sum())
    found, tolerance = float(loss.detach().float().mean()), max(one.tolerance for one in passes)
    if abs(found - mean) > tolerance * abs(mean):
        raise ProbeError(
            f"the host's loss is {found:.6g}, and the cross-entropy of its output embeddings on the decoder's output "
            f"is {mean:.6g}: capped or scaled logits, label smoothing, or another term in the loss. What the image "
            "adds cannot be measured here."
        )


def _binned(nats: Tensor, number: Tensor) -> dict[str, Any]:
    """Return the sum of nats and the number of tokens in each bin, up to the last that has one."""
    ends = torch.tensor(BIN_ENDS, device=number.device)
    at = torch.bucketize(number, ends).clamp(max=len(BIN_ENDS) - 1)
    tokens = torch.bincount(at)
    sums = torch.zeros(len(tokens), dtype=torch.float64, device="cpu").index_add(0, at.cpu(), nats.double().cpu())
    return {"nats": sums.tolist(), "tokens": tokens.tolist()}


def make_record(
    trainer: Any, config: VistaConfig, ranks: list[tuple[list[dict[str, Any]], list[float]]]
) -> dict[str, Any]:
    """Return ``probe.json``: every sample, and the means over all of them.

    Raises:
        ProbeError: there is no sample.
    """
    samples = [{"rank": rank, **sample} for rank, (found, _) in enumerate(ranks) for sample in found]
    if not samples:
        raise ProbeError(
            "no sample of these batches has both an image and supervised text: there is nothing to measure."
        )
    tokens = sum(sum(sample["tokens"]) for sample in samples)
    xy, xx = (sum(column) for column in zip(*(sums for _, sums in ranks), strict=True))
    compared = [sample for sample in samples if sample["margin"] is not None]
    means = {
        key: sum(sample[key] for sample in compared) / len(compared) if compared else None
        for key in ("margin", "own_first", "chance")
    }
    return {
        "llava_vista": __version__,
        "versions": versions(),
        "model": getattr(trainer.model.config, "_name_or_path", ""),
        "class": type(trainer.model).__name__,
        "options": config.to_dict(),
        "seed": trainer.args.seed,
        "ranks": len(ranks),
        "position": "number of the supervised token in its sample, from 1; a bin ends with `bin_ends`",
        "bin_ends": BIN_ENDS,
        "information": sum(sum(sample["nats"]) for sample in samples) / tokens,
        "slope": xy / xx if xx else None,
        "tokens": tokens,
        **means,
        "samples": samples,
    }
