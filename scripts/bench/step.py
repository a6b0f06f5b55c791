"""A full training step of a LLaVA-shaped model with and without VISTA, in turn: time, and peak memory.

    python scripts/bench/step.py tiny
    python scripts/bench/step.py d1024
    python scripts/bench/step.py 7b --device cuda --batch 16      # LLaVA-1.5-7B's dimensions: 139 GiB of a GPU

transformers' own Llava class with random weights: vision tower (frozen), projector, Llama; forward, backward and the
optimizer's step, every weight but the tower's trained.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from bench_kit import DTYPES, alternate, milliseconds, parser, peak_memory, ratio, save, seconds_of, start
from objective import make_case
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_vista import VistaConfig, attach


class Size(NamedTuple):
    """A model and a batch: samples of one image and ``text`` tokens."""

    width: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    vision: dict[str, int]
    batch: int
    text: int
    dtype: str
    checkpointing: bool = False


TINY_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {
    "smoke": Size(16, 16, 1, 2, 64, {**TINY_TOWER, "image_size": 8, "patch_size": 4}, 2, 12, "float32"),
    # the demo's and the tests' scale
    "tiny": Size(128, 256, 4, 4, 512, {**TINY_TOWER, "image_size": 32, "patch_size": 4}, 8, 64, "float32"),
    "d1024": Size(1024, 2752, 2, 8, 4096, {**TINY_TOWER, "image_size": 96, "patch_size": 4}, 2, 448, "float32"),
    "7b": Size(
        4096, 11008, 32, 32, 32064,
        {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "image_size": 336, "patch_size": 14,
        },
        16, 1472, "bfloat16", True,
    ),
}  # fmt: skip


def image_positions(size: Size) -> int:
    return (size.vision["image_size"] // size.vision["patch_size"]) ** 2


def build(size: Size, device: str) -> torch.nn.Module:
    """The model in training mode, made on the device in its dtype."""
    text = LlamaConfig(
        hidden_size=size.width, intermediate_size=size.inner, num_hidden_layers=size.layers,
        num_attention_heads=size.heads, num_key_value_heads=size.heads, vocab_size=size.vocabulary,
        max_position_embeddings=4096, use_cache=False,
    )  # fmt: skip
    config = LlavaConfig(vision_config=CLIPVisionConfig(**size.vision), text_config=text, image_token_index=3)
    config.pad_token_id = 0
    torch.set_default_dtype(DTYPES[size.dtype])
    try:
        with torch.device(device):
            model: torch.nn.Module = LlavaForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("vision_tower" not in name)
    if size.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model.train()


def make_batch(size: Size, device: str) -> dict[str, torch.Tensor]:
    """One image per sample, no padding."""
    # Up to transformers 4.48 the class replaces one placeholder by an image's rows, since then there is one for each.
    expands = hasattr(LlavaForConditionalGeneration, "_merge_input_ids_with_image_features")
    ids = torch.randint(4, size.vocabulary, (size.batch, size.text), device=device)
    image = torch.full((size.batch, 1 if expands else image_positions(size)), 3, device=device)
    ids = torch.cat([ids[:, :4], image, ids[:, 4:]], dim=1)
    side = size.vision["image_size"]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(ids == 3, -100),
        "pixel_values": torch.randn(size.batch, 3, side, side, device=device, dtype=DTYPES[size.dtype]),
    }


class Trainee:
    """A model under training, whose VISTA can be put on and taken off between steps."""

    def __init__(self, size: Size, device: str) -> None:
        self.model, self.batch = build(size, device), make_batch(size, device)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True if device == "cuda" else None)
        self.handle: Any = None

    def vista(self, on: bool) -> None:
        """Attach or detach, and do one step, so that the first batch's checks are not in what is timed."""
        if self.handle is not None:
            self.handle.detach()
            self.handle = None
        if on:
            self.handle = attach(self.model, VistaConfig())
        self.step()

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model(**self.batch).loss.backward()
        self.optimizer.step()


def measure(trainee: Trainee, rounds: int, device: str, seconds: float) -> dict[str, Any]:
    """Time in turn A B B A, where a change is always followed by one untimed step."""
    times: dict[str, list[float]] = {"without": [], "with": []}
    end = time.perf_counter() + seconds
    for number in range(rounds):
        for name in ("without", "with") if number % 2 == 0 else ("with", "without"):
            trainee.vista(name == "with")
            times[name].append(seconds_of(trainee.step, device))
        if number >= 2 and time.perf_counter() > end:
            break
    memory = {}
    for name in times:
        trainee.vista(name == "with")
        trainee.optimizer.zero_grad(set_to_none=True)
        memory[name] = peak_memory(trainee.step, device)
    trainee.vista(False)
    return {
        "rounds": len(times["with"]),
        "ms": {name: milliseconds(values) for name, values in times.items()},
        "overhead": round(ratio(times["with"], times["without"]) - 1, 5),
        "overhead_of_fastest": round(min(times["with"]) / min(times["without"]) - 1, 5),
        "all_ms": {name: [milliseconds([value]) for value in values] for name, values in times.items()},
        "peak_bytes": memory,  # of a step, above weights and optimizer state
        "peak_overhead": round(memory["with"] / memory["without"] - 1, 6),
    }


def objective_alone(size: Size, device: str) -> float:
    """ms of the objective's forward and backward on tensors of this model's shape: what a step has at least to pay."""
    image = image_positions(size)
    shape = (size.batch, image + size.text, size.width)
    case = make_case(shape, DTYPES[size.dtype], device, trained=True, spans=[(4, 4 + image)])

    def step() -> None:
        case.clear()
        case.ours("l2").backward()

    return milliseconds(alternate({"objective": step}, 9, device)["objective"])


def main(arguments: list[str] | None = None) -> None:
    made = parser(__doc__)
    made.add_argument("size", nargs="?", default="tiny", choices=sorted(SIZES))
    made.add_argument("--batch", type=int, help="samples (default: that of the size)")
    made.add_argument("--seconds", type=float, default=300, help="no new round after so long (default: %(default)s)")
    options = made.parse_args(arguments)
    start(options)
    name = "smoke" if options.smoke else options.size
    size = SIZES[name]._replace(**({"batch": options.batch} if options.batch else {}))
    alone = objective_alone(size, options.device)
    trainee = Trainee(size, options.device)
    row = measure(trainee, options.rounds, options.device, options.seconds)
    row = {
        "size": name,
        "batch": size.batch,
        "length": image_positions(size) + size.text,
        "dtype": size.dtype,
        "parameters": sum(parameter.numel() for parameter in trainee.model.parameters()),
        **row,
        "objective_alone_ms": alone,
        "objective_share": round(alone / row["ms"]["without"], 5),
    }
    print(row)
    save(f"step_{name}", options, [row], size=size._asdict())


if __name__ == "__main__":
    main()
