"""Forward and backward of the objective against the published arithmetic and against one clone of the embeddings.

    python scripts/bench/objective.py                    # CPU, one thread
    python scripts/bench/objective.py --device cuda      # a GPU

Frozen means that the embedding table is not trained: only the hidden states get a gradient. Extra memory is what the
allocator handed out at most, less the gradients that every implementation must hand over; the arm "gradients" does no
more than make these, of zeros. infonce has no published arithmetic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from bench_kit import DTYPES, alternate, milliseconds, parser, peak_memory, ratio, save, start
from published import Spans, published_vista
from torch import Tensor

from llava_vista import AlignmentHead, SequenceLayout, VistaConfig

SHAPES = [(1, 256, 512), (2, 512, 1024), (4, 1024, 2048), (8, 1024, 4096), (16, 2048, 4096)]
METHODS = ("l2", "cosine", "infonce")
PUBLISHED = ("l2", "cosine")


class Case(NamedTuple):
    """inputs_embeds, hidden (B, L, d); layout; images and lengths as `published_vista` wants them."""

    inputs_embeds: Tensor
    hidden: Tensor
    layout: SequenceLayout
    images: list[Spans]
    lengths: list[int]

    def clear(self) -> None:
        self.inputs_embeds.grad = self.hidden.grad = None

    def ours(self, method: str) -> Tensor:
        return AlignmentHead(VistaConfig(method=method))(self.inputs_embeds, self.hidden, self.layout).loss

    def published(self, method: str) -> Tensor:
        return published_vista(self.inputs_embeds, self.hidden, self.images, self.lengths, method)


def make_case(
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: str,
    *,
    trained: bool,
    spans: Spans,
    length: int | None = None,
) -> Case:
    """Random tensors; the same images in every sample.

    Args:
        shape: (B, L, d).
        spans: (start, stop) of each image.
        length: without padding; L when None.
    """
    batch, full, _ = shape
    length = length or full
    embeds, hidden = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    image = torch.zeros(batch, full, dtype=torch.bool, device=device)
    for first, last in spans:
        image[:, first:last] = True
    text = ~image & (torch.arange(full, device=device) < length)
    layout = SequenceLayout(text=text, image=image)
    return Case(embeds.requires_grad_(trained), hidden.requires_grad_(), layout, [spans] * batch, [length] * batch)


def one_image(length: int) -> Spans:
    """LLaVA-1.5's 576 positions after a system prompt; less in a short sequence. The rest is text."""
    count = min(576, length * 9 // 16)
    return [(min(35, length // 8), min(35, length // 8) + count)]


def measure(shape: tuple[int, int, int], dtype: str, trained: bool, method: str, options: Any) -> dict[str, Any]:
    """One row of the results."""
    case = make_case(shape, DTYPES[dtype], options.device, trained=trained, spans=one_image(shape[1]))

    def ours() -> None:
        case.clear()
        case.ours(method).backward()

    def published() -> None:
        case.clear()
        case.published(method).backward()

    leaves = [case.hidden, case.inputs_embeds] if trained else [case.hidden]
    arms = {
        "ours": ours,
        "published": published,
        "clone": lambda: case.inputs_embeds.detach().clone(),
        "gradients": lambda: [torch.zeros_like(leaf) for leaf in leaves],
    }
    if method not in PUBLISHED:
        del arms["published"]
    times = alternate(arms, options.rounds, options.device)
    memory = {}
    for name in ("ours", "published"):
        if name in arms:
            case.clear()
            memory[name] = peak_memory(arms[name], options.device) - sum(leaf.nbytes for leaf in leaves)
    case.clear()
    row = {
        "shape": list(shape),
        "image_positions": int(case.layout.image[0].sum()),
        "text_positions": int(case.layout.text[0].sum()),
        "dtype": dtype,
        "trained": trained,
        "method": method,
        "rounds": len(times["ours"]),
        "ms": {name: milliseconds(values) for name, values in times.items()},
        "times_clone": ratio(times["ours"], times["clone"]),
        "gradients_share": ratio(times["gradients"], times["ours"]),
        "extra_bytes": memory,
    }
    if "published" in arms:
        row["faster_than_published"] = ratio(times["published"], times["ours"])
        row["published_times_clone"] = ratio(times["published"], times["clone"])
        row["extra_memory_share"] = round(memory["ours"] / memory["published"], 5)
    return row


def accuracy(
    method: str, device: str, seeds: int, shape: tuple[int, int, int] = (2, 512, 1024), scale: float = 1.0
) -> dict[str, Any]:
    """Mean relative error of the value against float64, from the same bfloat16 inputs, embeddings times ``scale``."""
    errors: dict[str, list[float]] = {"ours": [], "published": [], "published_in_bfloat16": [], "rounding": []}
    for seed in range(seeds):
        torch.manual_seed(seed)
        case = make_case(shape, torch.bfloat16, device, trained=False, spans=one_image(shape[1]))
        case = case._replace(inputs_embeds=case.inputs_embeds * scale)
        exact = exact_value(case, method).item()
        for name, value in {
            "ours": case.ours(method),
            "published": case.published(method),
            "published_in_bfloat16": in_bfloat16(case, method),
            "rounding": torch.tensor(exact),  # the least that a float32 result can have
        }.items():
            errors[name].append(abs(value.item() - exact) / abs(exact))
    return {"method": method, "seeds": seeds, **{name: sum(values) / seeds for name, values in errors.items()}}


def each_sample(case: Case, dtype: torch.dtype, method: str) -> Tensor:
    """The equation, elementwise in ``dtype``, weighted and summed in float64."""
    losses = []
    for sample in range(len(case.lengths)):
        text = case.inputs_embeds[sample, case.layout.text[sample]].to(dtype)  # (m, d)
        anchor = case.hidden[sample, case.layout.image[sample]][-1].to(dtype).expand_as(text)
        if method == "l2":
            information = -torch.nn.functional.mse_loss(anchor, text, reduction="none").double().mean(dim=1)
        else:
            information = torch.nn.functional.cosine_similarity(anchor, text, dim=-1).double()
        t = torch.arange(1, len(text) + 1, device=text.device, dtype=torch.float64)
        losses.append(-(information * t).mean() / len(text))
    return torch.stack(losses).mean()


def exact_value(case: Case, method: str) -> Tensor:
    return each_sample(case, torch.float64, method)


def in_bfloat16(case: Case, method: str) -> Tensor:
    """The published arithmetic without its conversion of the hidden states to float32."""
    return each_sample(case, torch.bfloat16, method)


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__).parse_args(arguments)
    start(options)
    errors = [accuracy(method, options.device, 2 if options.smoke else 100) for method in PUBLISHED]
    for error in errors:
        print("relative error", error)
    rows: list[dict[str, Any]] = []
    for shape in [(2, 32, 16)] if options.smoke else SHAPES:
        for dtype in DTYPES:
            for trained in (False, True):
                for method in METHODS:
                    row = measure(shape, dtype, trained, method, options)
                    rows.append(row)
                    print(shape, dtype, "trained" if trained else "frozen", method, row["ms"], end=" ")
                    print(
                        {
                            key: value
                            for key, value in row.items()
                            if key.startswith(("faster", "times", "gradients_", "extra_memory"))
                        },
                        flush=True,
                    )
        save("objective", options, rows, accuracy=errors)  # after each shape: the last ones take long


if __name__ == "__main__":
    main()
