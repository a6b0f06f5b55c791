"""Two ranks with a part of a batch each, against one process with the whole; run by torchrun."""

from __future__ import annotations

import torch
from cpu_ranks import leave

from llava_vista import SequenceLayout, VistaConfig
from llava_vista.layout import Span
from llava_vista.objective import AlignmentHead


def make_batch(
    seed: int, batch: int, *, ragged: bool = True, length: int = 12, width: int = 16
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Embeddings and hidden states (B, L, d), and kind (B, L): 1 image, 0 text, -1 padding; row 1 has no image."""
    generator = torch.Generator().manual_seed(seed)
    embeds, hidden = torch.randn(2, batch, length, width, generator=generator)
    kind = torch.zeros(batch, length, dtype=torch.long)
    kind[:, 2:5] = 1
    if ragged:
        kind[1] = 0
        for row in range(batch):
            kind[row, length - row % 4 :] = -1
    return embeds, hidden, kind


def main() -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    # (all rows, rows of rank 0, images on rank 1): equal parts first, which fixes the capacity; then other cases
    steps = [(6, 3, True), (5, 3, True), (6, 3, False), *[(6, 3, False)] * 3, (4, 2, True)]
    several = [(step, *sizes, False) for step, sizes in enumerate(steps)]
    # packed into one row a rank, and growing
    several += [
        (step, *sizes, True) for step, sizes in enumerate([(5, 2, True), (9, 6, True), (9, 2, False), (3, 1, True)])
    ]
    heads = {packed: AlignmentHead(VistaConfig(method="infonce")).train() for packed in (False, True)}
    for step, batch, first, images, packed in several:
        head = heads[packed]
        embeds, hidden, kind = make_batch(step, batch)
        if not images:
            kind[first:] = kind[first:].clamp(max=0)
        whole = [tensor.clone().requires_grad_() for tensor in (embeds, hidden)]
        alone = AlignmentHead(VistaConfig(method="infonce")).eval()(*whole, SequenceLayout(kind == 0, kind == 1))
        alone.loss.backward()

        part = slice(0, first) if rank == 0 else slice(first, None)
        mine = [tensor[part].clone().requires_grad_() for tensor in (embeds, hidden)]
        if kind[part].max() < 1 and step % 2:
            # the decoder was called without embeddings, as hosts do with a batch without images
            terms = head.align(*head.nothing(mine[1]))
            mine[0].grad = torch.zeros_like(mine[0])
        elif packed:
            spans = tuple(Span(0, 12 * sample, 12 * sample + 12) for sample in range(len(kind[part])))
            flat = kind[part].flatten()[None]
            rows = [tensor.flatten(0, 1)[None] for tensor in mine]
            terms = head(*rows, SequenceLayout(flat == 0, flat == 1, spans=spans))
        else:
            terms = head(*mine, SequenceLayout(kind[part] == 0, kind[part] == 1))
        terms.loss.backward()
        assert abs(terms.loss.item() - alone.loss.item()) < 1e-6, (terms.loss, alone.loss)
        scale = max(float(tensor.grad.abs().max()) for tensor in whole)
        for ours, theirs in zip(mine, whole, strict=True):
            # data-parallel training averages over the ranks
            error = float((ours.grad / 2 - theirs.grad[part]).abs().max())
            assert error <= 1e-6 * max(scale, 1.0), (step, rank, error)
        print("equal", flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
    leave()
