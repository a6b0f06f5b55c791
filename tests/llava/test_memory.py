"""What a training step with VISTA adds to the peak of a step without it, by the allocator's own account."""

from __future__ import annotations

import pytest
import torch
from tiny_llava import build
from torch.profiler import ProfilerActivity, profile

from llava_vista import VistaConfig, attach

BATCH, LENGTH, WIDTH, IMAGE = 4, 1024, 1024, 16


def peak(model: torch.nn.Module, batch: dict) -> int:
    """Bytes allocated at most during one forward and backward, above what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        model(**batch).loss.backward()
    model.zero_grad(set_to_none=False)
    now = highest = 0
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        highest = max(highest, now)
    return highest


@pytest.mark.parametrize("method", ["l2", "cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_grows_by_less_than_one_percent(tower_path, method: str, dtype: torch.dtype) -> None:
    """B=4, L=1024, d=1024 of the real LLaVA class (2 layers)."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_attention_heads": 8, "vocab_size": 2048}
    model = build("llama", tower_path, **{**sizes, "max_position_embeddings": 2 * LENGTH}).to(dtype)
    ids = torch.randint(3, 2048, (BATCH, LENGTH - IMAGE + 1))
    ids[:, 4] = -200
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "labels": ids.masked_fill(ids < 0, -100),
        "images": torch.randn(BATCH, 3, 16, 16, dtype=dtype),
    }
    model(**batch).loss.backward()  # gradients exist from here on
    model.zero_grad(set_to_none=False)
    plain = peak(model, batch)
    handle = attach(model, VistaConfig(method))
    with_vista = peak(model, batch)
    handle.detach()
    print(f"peak {plain / 2**20:.1f} MiB, with VISTA {(with_vista - plain) / 2**20:+.2f} MiB")
    assert plain > BATCH * LENGTH * WIDTH * 4
    assert with_vista - plain < 0.01 * plain
