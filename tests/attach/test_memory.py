"""What a training step with VISTA adds to the peak of a step without it, by the allocator's own account."""

from __future__ import annotations

import pytest
import torch
from tiny_llava import build
from torch.profiler import ProfilerActivity, profile

from llava_vista import VistaConfig, attach

pytestmark = pytest.mark.environments("llava")

IMAGE = 16


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


@pytest.mark.parametrize(
    ("dtype", "shape"),
    # small in bfloat16: a CPU that has no instructions for it multiplies at a GFLOP/s
    [(torch.float32, (4, 1024, 1024)), (torch.bfloat16, (2, 256, 512))],
)
def test_peak_grows_by_less_than_one_percent(tower_path, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    """Of the real LLaVA class (2 layers), shape (B, L, d)."""
    batch_size, length, width = shape
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_attention_heads": 8, "vocab_size": 2048}
    model = build("llama", tower_path, **{**sizes, "max_position_embeddings": 2 * length}).to(dtype)
    ids = torch.randint(3, 2048, (batch_size, length - IMAGE + 1))
    ids[:, 4] = -200
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids, dtype=torch.bool),
        "labels": ids.masked_fill(ids < 0, -100),
        "images": torch.randn(batch_size, 3, 16, 16, dtype=dtype),
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)  # as from the second step on
    plain = peak(model, batch)
    assert plain > batch_size * length * width * 4
    for method in ("l2", "cosine", "infonce"):
        handle = attach(model, VistaConfig(method))
        more = peak(model, batch) - plain
        handle.detach()
        print(f"{method}: peak {plain / 2**20:.1f} MiB, with VISTA {more / 2**20:+.3f} MiB")
        assert more < 0.01 * plain
