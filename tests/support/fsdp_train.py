"""One step of a training loop of our own on each of two CPU ranks, sharded by FSDP1 and by FSDP2."""

from __future__ import annotations

import torch
from cpu_ranks import leave
from tiny_chat import IMAGE, make_model
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from llava_vista import VistaConfig, attach

CONFIG = VistaConfig(weight=2.0)


def make_batch(*seeds: int) -> dict[str, torch.Tensor]:
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(5, 15, (24,), generator=generator)
        ids[1:17] = IMAGE
        rows.append((ids, torch.randn(3, 16, 16, generator=generator)))
    ids, images = (torch.stack(values) for values in zip(*rows, strict=True))
    return {"input_ids": ids, "labels": ids.where(ids != IMAGE, -100), "pixel_values": images}


def whole(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every gradient, put together again."""
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    return {
        name.replace("_fsdp_wrapped_module.", ""): getattr(g, "full_tensor", g.clone)() for name, g in grads.items()
    }


def check(way: str) -> None:
    alone = make_model().train()
    attach(alone, CONFIG)
    alone(**make_batch(0, 1)).loss.backward()
    expected = whole(alone)

    model = make_model().train()
    layers = model.model.language_model.layers
    if way == "FSDP1":
        policy, cpu = ModuleWrapPolicy({type(layers[0])}), torch.device("cpu")
        model = FullyShardedDataParallel(model, auto_wrap_policy=policy, use_orig_params=True, device_id=cpu)
    handle = attach(model, CONFIG)  # before FSDP2, after FSDP1
    if way == "FSDP2":
        mesh = init_device_mesh("cpu", (2,))
        for module in (*layers, model):
            fully_shard(module, mesh=mesh)
    model(**make_batch(distributed.get_rank())).loss.backward()
    if way == "FSDP1":
        with FullyShardedDataParallel.summon_full_params(model, with_grads=True):
            found = whole(model)
    else:
        found = whole(model)
    scale = max(value.abs().max() for value in expected.values())
    assert expected.keys() <= found.keys()
    for name, value in found.items():  # FSDP1 has zeros for weights that take no part
        assert (value - expected.get(name, torch.zeros_like(value))).abs().max() <= 1e-5 * scale, (way, name)
    assert handle.metrics()["vista_aligned_samples"] == 1
    distributed.barrier()
    print(f"same gradients under {way}", flush=True)


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    for way in ("FSDP1", "FSDP2"):
        check(way)
    distributed.destroy_process_group()
    leave()
