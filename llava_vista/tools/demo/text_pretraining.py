"""Text-only pre-training of the tiny Llama, so that it knows the demo's language before it sees an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from .scene_dataset import TextSample

_IGNORED = -100


def tokenize(folder: Path, samples: Sequence[TextSample]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return (token ids, labels) of each sample, both (T,), BOS first; parts that are only read have no labels."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=False)
    rows = []
    for sample in samples:
        ids, labels = [tokenizer.bos_token_id], [_IGNORED]
        for text, learned in sample:
            piece = tokenizer(text, add_special_tokens=False).input_ids
            ids += piece
            labels += piece if learned else [_IGNORED] * len(piece)
        rows.append((torch.tensor(ids), torch.tensor(labels)))
    return rows


def pretrain_text(
    folder: str | Path,
    samples: Sequence[TextSample],
    *,
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    seed: int = 0,
    device: str = "cpu",
) -> list[float]:
    """Train the Llama in ``folder`` on text samples and save it there again.

    Returns:
        The cross-entropy of every step.
    """
    from tqdm import tqdm
    from transformers import LlamaForCausalLM

    rows = tokenize(Path(folder), samples)
    model = LlamaForCausalLM.from_pretrained(folder).train().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, betas=(0.9, 0.98))
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, max(0.05, (steps - step) / (steps - warmup + 1)))
    )
    generator = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    for _ in tqdm(range(steps)):
        batch = [rows[index] for index in torch.randint(len(rows), (batch_size,), generator=generator).tolist()]
        ids = pad_sequence([row for row, _ in batch], batch_first=True)  # (B, T)
        labels = pad_sequence([row for _, row in batch], batch_first=True, padding_value=_IGNORED)  # (B, T)
        mask = pad_sequence([torch.ones_like(row) for row, _ in batch], batch_first=True)  # (B, T)
        loss = model(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    model.save_pretrained(folder)
    return losses
