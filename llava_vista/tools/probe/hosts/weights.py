"""The weights of a checkpoint folder of a LLaVA-like repository: whole, LoRA, or the projector that stage 1 saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import ProbeError
from .base import LoadOptions

LORA_FILE, LORA_REST, PROJECTOR_FILE = "adapter_config.json", "non_lora_trainables.bin", "mm_projector.bin"
_SAFE, _PICKLED = "model*.safetensors", "pytorch_model*.bin"


def is_lora(checkpoint: Path) -> bool:
    return (checkpoint / LORA_FILE).is_file()


def is_partial(checkpoint: Path) -> bool:
    """Whether the folder holds only what was added to a language model."""
    return is_lora(checkpoint) or ((checkpoint / PROJECTOR_FILE).is_file() and not has_weights(checkpoint))


def has_weights(checkpoint: Path) -> bool:
    return any(any(checkpoint.glob(pattern)) for pattern in (_SAFE, _PICKLED))


def check_weights(checkpoint: Path, base: Path | None) -> None:
    """Raise ProbeError unless the folder, with its base, holds a whole model."""
    if not is_partial(checkpoint):
        if not has_weights(checkpoint):
            raise ProbeError(f"{checkpoint} holds a configuration but no weights (*.safetensors or *.bin).")
    elif base is None:
        kind = "LoRA weights" if is_lora(checkpoint) else f"a projector ({PROJECTOR_FILE}, as stage 1 saves it)"
        raise ProbeError(
            f"{checkpoint} holds {kind} only. Name the language model that it was trained on: --base FOLDER."
        )


def how_to_load(options: LoadOptions) -> dict[str, Any]:
    """Arguments for ``from_pretrained``: precision, and attention that shows its weights."""
    import transformers

    how: dict[str, Any] = {"torch_dtype": options.dtype}
    if hasattr(transformers.PreTrainedModel, "_autoset_attn_implementation") or _major(transformers.__version__) >= 5:
        how["attn_implementation"] = "eager"  # before 4.36 there was no other, and no such argument
    return how


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def from_base(cls: Any, checkpoint: Path, base: Path, how: dict[str, Any]) -> Any:
    """The base with what the checkpoint adds to it, as LLaVA's own loader puts them together.

    Raises:
        ProbeError: the two do not fit.
    """
    lora = is_lora(checkpoint)
    config = cls.config_class.from_pretrained(checkpoint)
    if getattr(config, "mm_use_im_start_end", False) or getattr(config, "mm_use_im_patch_token", False):
        raise ProbeError(
            f"{checkpoint} adds image tokens to the vocabulary of its base; merge it first with the host's own script "
            "(LLaVA: scripts/merge_lora_weights.py), and probe what that writes."
        )
    if "attn_implementation" in how:  # transformers 4.37 overlooks it where it is given a configuration
        config._attn_implementation = how["attn_implementation"]
    model = cls.from_pretrained(base, config=config, **how)
    file = checkpoint / (LORA_REST if lora else PROJECTOR_FILE)
    if not file.is_file():
        raise ProbeError(f"{checkpoint} holds LoRA weights, but no {file.name} (the projector) beside them.")
    added = torch.load(file, map_location="cpu", weights_only=True)
    added = {name.removeprefix("base_model.").replace("model.model.", "model.", 1): v for name, v in added.items()}
    unexpected = model.load_state_dict(added, strict=False).unexpected_keys
    if unexpected:
        raise ProbeError(f"{file} does not fit {base}: it holds {unexpected[0]}, which the model has not.")
    if lora:
        from peft.peft_model import PeftModel

        model = PeftModel.from_pretrained(model, checkpoint).merge_and_unload()
    return model.to(how["torch_dtype"])


def held_tower(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """What the checkpoint itself holds of its vision tower: LLaVA-like models read the original one anew otherwise.

    Args:
        name: of the tower's attribute in the model, "vision_tower" or "image_tower".

    Returns:
        the tower's state; empty when the checkpoint holds none of it.
    """
    from safetensors import safe_open

    prefix = f"model.{name}."
    found: dict[str, Tensor] = {}
    for file in sorted(checkpoint.glob(_SAFE)):
        with safe_open(file, framework="pt") as tensors:
            found |= {key: tensors.get_tensor(key) for key in tensors.keys() if key.startswith(prefix)}  # noqa: SIM118
    if not found:
        for file in sorted(checkpoint.glob(_PICKLED)):
            state = torch.load(file, map_location="cpu", weights_only=True)
            found |= {key: value for key, value in state.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): value for key, value in found.items()}


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' warnings: which weights a checkpoint does not hold is handled here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
