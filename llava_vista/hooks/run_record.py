"""``vista.json``: what a run trained with, beside its checkpoints; and the options where people filter runs.

A resumed run appends: the parts before it stay in ``history``. The file travels with checkpoints, so of the host's
arguments it holds numbers and switches, and text only of the fields in `TEXT_FIELDS`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import os
import platform
import re
import sys
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING, Any

from ..config import FLAG, FLAG_PREFIX, VistaConfig
from ..logging import warn_once

if TYPE_CHECKING:
    from ..attach.handle import Handle

FILE_NAME = "vista.json"
_PACKAGES = ("llava-vista", "torch", "transformers", "accelerate", "deepspeed", "peft", "trl", "llava-torch")
#: Fields of training arguments whose text is recorded: transformers', LLaVA's, TinyLLaVA's and TRL's.
# fmt: off
TEXT_FIELDS = frozenset((
    "output_dir", "logging_dir", "run_name", "project", "report_to", "optim", "optim_args", "optim_target_modules",
    "lr_scheduler_type", "lr_scheduler_kwargs", "logging_strategy", "save_strategy", "eval_strategy",
    "evaluation_strategy", "log_level", "log_level_replica", "fp16_opt_level", "fp16_backend",
    "half_precision_backend", "ddp_backend", "debug", "fsdp", "fsdp_config", "fsdp_transformer_layer_cls_to_wrap",
    "deepspeed", "accelerator_config", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs",
    "torch_compile_backend", "torch_compile_mode", "torchdynamo", "liger_kernel_config", "label_names",
    "length_column_name", "train_sampling_strategy", "metric_for_best_model", "resume_from_checkpoint",
    "hub_strategy", "include_for_metrics", "dataloader_multiprocessing_context", "mp_parameters", "ray_scope",
    "cache_dir", "mpt_attn_impl", "attn_implementation", "quant_type", "lora_bias", "lora_weight_path",
    "training_recipe", "tune_type_llm", "tune_type_vision_tower", "tune_type_connector", "mm_tunable_parts",
    "eos_token", "pad_token", "chat_template_path", "dataset_text_field", "truncation_mode", "packing_strategy",
    "loss_type",
))
#: Sections of a DeepSpeed configuration that are recorded; its monitors (W&B, Comet) have keys of their own.
_DEEPSPEED = frozenset((
    "bf16", "fp16", "data_types", "zero_optimization", "zero_allow_untested_optimizer", "optimizer", "scheduler",
    "gradient_clipping", "gradient_accumulation_steps", "train_batch_size", "train_micro_batch_size_per_gpu",
    "prescale_gradients",
))
# fmt: on
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+(?=@)|(?<=\?)\S+")


def versions(*also: str) -> dict[str, str]:
    """Installed versions of Python, of what matters to a run, and of other packages."""
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *also):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it. Credentials in a URL are left out, and of other objects all but the class."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return _CREDENTIALS.sub("...", value) if "://" in value else value
    return value if value is None or isinstance(value, (bool, int, float)) else type(value).__qualname__


def arguments_record(arguments: Any) -> dict[str, Any]:
    """Return the training arguments that may be written down: numbers, switches, and text of `TEXT_FIELDS`."""
    values = {field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(arguments)}
    deepspeed = values.get("deepspeed")
    if isinstance(deepspeed, Mapping):
        values["deepspeed"] = {key: item for key, item in deepspeed.items() if key in _DEEPSPEED}
    return {
        name: _plain(value)
        for name, value in values.items()
        if name in TEXT_FIELDS or value is None or isinstance(value, (bool, int, float))
    }


def data_record(dataset: Any) -> dict[str, Any]:
    """Return what distinguishes a training set: number of samples, and LLaVA's data arguments with the file's size."""
    record: dict[str, Any] = {}
    with contextlib.suppress(TypeError, NotImplementedError):  # a stream has no length
        record["samples"] = len(dataset)
    arguments = getattr(dataset, "data_args", None)
    for name in ("data_path", "image_folder", "image_aspect_ratio"):
        value = getattr(arguments, name, None)
        if isinstance(value, str):
            record[name] = _plain(value)
    if os.path.isfile(record.get("data_path", "")):
        record["data_bytes"] = os.path.getsize(record["data_path"])  # not read: LLaVA's is 1 GB
    return record


class RunRecord:
    """The file of one training, written at its start and its end."""

    def __init__(self, handle: Handle, trainer: Any) -> None:
        self.path = os.path.join(trainer.args.output_dir, FILE_NAME)
        first_step = int(trainer.state.global_step)
        before = self._before(handle.config) if first_step else {}
        history = before.pop("history", [])
        self.content = {
            "run_id": before.get("run_id") or uuid.uuid4().hex,
            "started": _now(),
            "first_step": first_step,
            "config": handle.config.to_dict(),
            "adapter": handle.adapter.name,
            "model_class": f"{type(handle.inner).__module__}.{type(handle.inner).__qualname__}",
            "decoder_class": f"{type(handle.decoder).__module__}.{type(handle.decoder).__qualname__}",
            "world_size": trainer.args.world_size,
            "versions": versions(),
            "data": self._read(data_record, trainer.train_dataset, "the data"),
            "training_arguments": self._read(arguments_record, trainer.args, "the training arguments"),
            "history": [*(history if isinstance(history, list) else []), *([before] if before else [])],
        }
        self._write()

    def finish(self, steps: int) -> None:
        """Training has ended after so many optimizer steps."""
        self.content |= {"finished": _now(), "last_step": steps}
        self._write()

    def _read(self, read: Callable[[Any], dict[str, Any]], host_object: Any, what: str) -> dict[str, Any]:
        try:
            return read(host_object)
        except Exception as error:  # noqa: BLE001  (the host's objects may raise anything, and a record stops no training)
            warn_once(f"{self.path} is without {what}: reading them failed ({error!r}).")
            return {}

    def _before(self, config: VistaConfig) -> dict[str, Any]:
        """Return the record of the run that is resumed, and say which options differ from it."""
        try:
            with open(self.path, encoding="utf-8") as file:
                before = json.load(file)
            known = dict(before["config"])
        except FileNotFoundError:
            warn_once(
                f"this run is resumed with VISTA, but there is no {self.path}: up to here it was trained without "
                "VISTA, or that file was not kept. The result is neither a baseline nor a VISTA run."
            )
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            warn_once(f"{self.path} cannot be read ({error!r}); whether VISTA options changed is unknown.")
            return {}
        now = config.to_dict()
        differ = [name for name in sorted({*known, *now}) if known.get(name) != now.get(name)]
        if differ:
            changed = ", ".join(f"{name} {known.get(name)!r} -> {now.get(name)!r}" for name in differ)
            warn_once(f"this run is resumed with other VISTA options than before: {changed}.")
        return dict(before)

    def _write(self) -> None:
        """Write the file. A full disk or the like is a warning: training goes on."""
        try:
            os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            with open(f"{self.path}.part", "w", encoding="utf-8") as file:
                json.dump(self.content, file, indent=2)
                file.write("\n")
            os.replace(f"{self.path}.part", self.path)
        except OSError as error:
            warn_once(f"{self.path} could not be written ({error}); training goes on without it.")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def report_options(trainer: Any, config: VistaConfig) -> None:
    """Add the options to the W&B run and the TensorBoard text that the trainer itself has started, on rank 0."""
    options = {FLAG: True, **{f"{FLAG_PREFIX}{name}": value for name, value in config.to_dict().items()}}
    wandb: Any = sys.modules.get("wandb")
    try:
        for callback in trainer.callback_handler.callbacks:
            if type(callback).__name__ == "WandbCallback" and getattr(wandb, "run", None) is not None:
                wandb.config.update(options, allow_val_change=True)
            writer = getattr(callback, "tb_writer", None)
            if writer is not None:
                writer.add_text(FLAG, json.dumps(options, indent=2))
    except Exception as error:  # noqa: BLE001  (a tracker may raise anything, and stops no training)
        warn_once(f"VISTA's options could not be added to the tracker's run ({error!r}); {FLAG}.json has them.")
