"""Set-ups that VISTA cannot train under: those in which several ranks share one sequence."""

from __future__ import annotations

from typing import Any

from ..errors import AttachError

#: Keys of a DeepSpeed configuration, and fields of accelerate's `ParallelismConfig`; 1 or absent is off.
DEEPSPEED_KEYS = ("sequence_parallel_size",)
ACCELERATE_FIELDS = ("sp_size", "cp_size")


def refuse_split_sequences(trainer: Any) -> None:
    """Stop before training when each rank's decoder would get a part of every sequence only.

    The last image position may then be on another rank than the text: the tap would see no embeddings of one of them,
    and the term would be wrong without any sign of it.

    Raises:
        AttachError: it names the setting.
    """
    accelerator = trainer.accelerator
    plugin = getattr(accelerator.state, "deepspeed_plugin", None)
    deepspeed = getattr(plugin, "deepspeed_config", None) or {}
    found = {f"{key} of the DeepSpeed configuration": deepspeed.get(key) for key in DEEPSPEED_KEYS}
    parallelism = getattr(accelerator, "parallelism_config", None)
    found |= {f"{key} of accelerate's ParallelismConfig": getattr(parallelism, key, None) for key in ACCELERATE_FIELDS}
    for setting, size in found.items():
        if isinstance(size, int) and size > 1:
            raise AttachError(
                f"{setting} is {size}: that many ranks share one sequence, and each sees only a part of its "
                "embeddings, while VISTA needs the text and the last image position of a sample on one rank. Set it "
                "to 1 or leave it out, or train without VISTA."
            )
