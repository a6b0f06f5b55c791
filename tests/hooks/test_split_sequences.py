"""Sequences that several ranks share, as the newest accelerate sets them up."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from accelerate.utils import ParallelismConfig

from llava_vista.errors import AttachError
from llava_vista.hooks.ranks import refuse_split_sequences

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
