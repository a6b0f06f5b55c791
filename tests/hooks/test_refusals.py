"""Refused by name: sequences that several ranks share, and rows of several samples without a mark."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate.utils import ParallelismConfig

from llava_vista.errors import AttachError
from llava_vista.hooks.refusals import refuse_split_sequences, refuse_unmarked_packing

pytestmark = pytest.mark.environments("latest")


@pytest.mark.parametrize("field", ["sp_size", "cp_size"])
def test_a_split_sequence_is_refused(field: str) -> None:
    backend = {"sp_backend": "deepspeed"} if field == "sp_size" else {}
    parallelism = ParallelismConfig(**{field: 2}, **backend)
    trainer = SimpleNamespace(accelerator=SimpleNamespace(state=object(), parallelism_config=parallelism))
    with pytest.raises(AttachError, match=f"{field} of accelerate's ParallelismConfig is 2"):
        refuse_split_sequences(trainer)


def test_whole_sequences_pass() -> None:
    accelerator = SimpleNamespace(state=object(), parallelism_config=ParallelismConfig(dp_replicate_size=2))
    refuse_split_sequences(SimpleNamespace(accelerator=accelerator))


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ({"packing": True, "neat_packing": False}, True),  # LLaMA-Factory's
        ({"packing": True, "neat_packing": True}, False),
        ({"packing": None, "neat_packing": False}, False),
        ({"packing": True}, False),  # ms-swift marks where each sample begins
        ({"packing": True, "packing_strategy": "bfd"}, False),  # TRL
        ({"packing": True, "packing_strategy": "wrapped"}, True),
    ],
)
def test_packing_without_a_mark_is_refused(arguments: dict, refused: bool) -> None:
    made = [SimpleNamespace(output_dir="x"), SimpleNamespace(**arguments)]
    if refused:
        with pytest.raises(AttachError, match=r"where each begins.*or train without packing"):
            refuse_unmarked_packing(made)
    else:
        refuse_unmarked_packing(made)
