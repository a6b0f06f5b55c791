"""torch.compile under the newest Trainer: the same numbers as without."""

from __future__ import annotations

import pytest
from test_trainer import adapter, make_trainer  # noqa: F401  (the fixture registers the adapter)

from llava_vista import install


def test_compiled_training_has_the_same_log(tmp_path) -> None:
    install()
    logs = []
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        trainer = make_trainer(tmp_path, logging_steps=1, max_steps=3, **options)
        trainer.train()
        logs.append([record for record in trainer.state.log_history if "loss" in record])
    assert len(logs[0]) == 3
    for plain, compiled in zip(*logs, strict=True):
        assert compiled["vista_aligned_samples"] == plain["vista_aligned_samples"] == 2
        for key in ("loss", "ce_loss", "vista_loss", "vista_similarity", "grad_norm"):
            assert float(compiled[key]) == pytest.approx(float(plain[key]), abs=1e-4)
