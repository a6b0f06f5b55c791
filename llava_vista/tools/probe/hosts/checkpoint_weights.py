"""The weights of a LLaVA-1.5 checkpoint folder: whole, LoRA, or the projector that stage 1 saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ....errors import ProbeError

LORA_FILE, LORA_REST, PROJECTOR_FILE = "adapter_config.json", "non_lora_trainables.bin", "mm_projector.bin"


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a whole model; none if there are only parts of it."""
    return sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def kind_of_weights(folder: Path) -> str:
    """Return what the folder holds: "LoRA" weights, a "whole" model, or only a "projector".

    Raises:
        ProbeError: none of them.
    """
    if (folder / LORA_FILE).is_file():
        return "LoRA"
    if weight_files(folder):
        return "whole"
    if (folder / PROJECTOR_FILE).is_file():
        return "projector"
    raise ProbeError(f"{folder} holds a configuration but no weights (*.safetensors or *.bin).")


def from_base(cls: Any, checkpoint: Path, weights: str, base: Path | None, how: dict[str, Any]) -> Any:
    """Return the base with the checkpoint's "LoRA" or "projector" added, as LLaVA's own loader does.

    Raises:
        ProbeError: there is no base, or the two do not fit.
    """
    if base is None:
        kind = "LoRA weights" if weights == "LoRA" else f"a projector ({PROJECTOR_FILE}, as stage 1 saves it)"
        raise ProbeError(
            f"{checkpoint} holds {kind} only. Name the language model that it was trained on: --base FOLDER."
        )
    config = cls.config_class.from_pretrained(checkpoint)
    if getattr(config, "mm_use_im_start_end", False) or getattr(config, "mm_use_im_patch_token", False):
        raise ProbeError(
            f"{checkpoint} adds image tokens to the vocabulary of its base; merge it first with the host's own script "
            "(LLaVA: scripts/merge_lora_weights.py), and probe the merged folder."
        )
    # transformers 4.37 ignores the argument where it is given a configuration
    config._attn_implementation = how["attn_implementation"]
    model = cls.from_pretrained(base, config=config, **how)
    file = checkpoint / (LORA_REST if weights == "LoRA" else PROJECTOR_FILE)
    if not file.is_file():
        raise ProbeError(f"{checkpoint} holds LoRA weights, but no {file.name} (the projector) beside them.")
    added = torch.load(file, map_location="cpu", weights_only=True)
    added = {name.removeprefix("base_model.").replace("model.model.", "model.", 1): v for name, v in added.items()}
    unexpected = model.load_state_dict(added, strict=False).unexpected_keys
    if unexpected:
        raise ProbeError(f"{file} does not fit {base}: the model has no {unexpected[0]}.")
    if weights == "LoRA":
        from peft.peft_model import PeftModel

        model = PeftModel.from_pretrained(model, checkpoint).merge_and_unload()
    return model.to(how["torch_dtype"])


def saved_tower(checkpoint: Path) -> dict[str, Tensor]:
    """Return the state of the vision tower that the checkpoint itself holds; empty when it holds none.

    LLaVA loads the original tower otherwise.
    """
    from safetensors import safe_open

    prefix = "model.vision_tower."
    state: dict[str, Tensor] = {}
    for file in weight_files(checkpoint):
        if file.suffix == ".bin":
            whole = torch.load(file, map_location="cpu", weights_only=True)
            state |= {key: value for key, value in whole.items() if key.startswith(prefix)}
        else:
            with safe_open(file, framework="pt") as tensors:
                keys = [key for key in tensors.keys() if key.startswith(prefix)]  # noqa: SIM118
                state |= {key: tensors.get_tensor(key) for key in keys}
    return {key.removeprefix(prefix): value for key, value in state.items()}


@contextmanager
def quietly() -> Iterator[None]:
    """Silence transformers' warnings: which weights a checkpoint lacks is checked here."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
