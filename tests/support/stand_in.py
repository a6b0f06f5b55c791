"""A stand-in with the rarer merge contract, written here: five values come back, image positions are labelled -300."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from llava_vista import Adapter

IMAGE_TOKEN, IMAGE_LABEL, IGNORE, PATCHES, VOCABULARY = -200, -300, -100, 5, 48


class StandIn(LlamaForCausalLM):
    """Llama with images merged in a method; ``num_items_in_batch`` is used as transformers' own models do."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.projector = nn.Linear(3, config.hidden_size)
        self.post_init()

    def prepare_inputs_labels_for_multimodal(self, input_ids, attention_mask, past_key_values, labels, images):
        if images is None or input_ids.shape[1] == 1:
            return input_ids, attention_mask, past_key_values, None, labels
        rows = []
        images = iter(images)
        for ids, keep, wanted in zip(input_ids, attention_mask, labels, strict=True):
            embeds, row_labels = [], []
            for token, label in zip(ids[keep.bool()], wanted[keep.bool()], strict=True):
                if token == IMAGE_TOKEN:
                    embeds.append(self.projector(next(images)))
                    row_labels.append(torch.full((PATCHES,), IMAGE_LABEL))
                else:
                    embeds.append(self.get_input_embeddings()(token)[None])
                    row_labels.append(label[None])
            rows.append((torch.cat(embeds), torch.cat(row_labels)))
        embeds = nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
        labels = nn.utils.rnn.pad_sequence([row[1] for row in rows], batch_first=True, padding_value=IGNORE)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(row[0])) for row in rows], batch_first=True).long()
        return None, mask, past_key_values, embeds, labels

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        input_ids, attention_mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
            input_ids, attention_mask, None, labels, images
        )
        if labels is not None:
            labels = labels.masked_fill(labels < 0, IGNORE)
        return super().forward(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=embeds, labels=labels, **kwargs
        )


class StandInAdapter(Adapter):
    classes = (f"{StandIn.__module__}.{StandIn.__qualname__}",)


def build(seed: int = 0) -> StandIn:
    torch.manual_seed(seed)
    return StandIn(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            use_cache=False,
        )
    )  # fmt: skip


def make_row(seed: int, images: int = 1, length: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (1, length), generator=generator)
    labels = ids.clone()
    ids[:, 1 : 1 + 2 * images : 2] = IMAGE_TOKEN
    labels[:, : 4 + 2 * images] = IGNORE
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "images": torch.randn(images, PATCHES, 3, generator=generator),
    }


class Rows(torch.utils.data.Dataset):
    def __init__(self, images: int = 1, length: int = 16) -> None:
        self.rows = [make_row(seed, images) for seed in range(length)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]


def collate(rows: list[dict]) -> dict:
    return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}


def arguments(output: Path, **options) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(output), "max_steps": 4, "per_device_train_batch_size": 2, "logging_steps": 2,
            "learning_rate": 1e-3, "save_strategy": "no", "report_to": [], "remove_unused_columns": False,
            "disable_tqdm": True, "seed": 3, "use_cpu": True, **options,
        }
    )  # fmt: skip


def make_trainer(output: Path, trainer_class=Trainer, images: int = 1, **options) -> Trainer:
    return trainer_class(build(), arguments(output, **options), train_dataset=Rows(images), data_collator=collate)
