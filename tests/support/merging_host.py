"""Models of an unknown family: one that merges as LLaVA does, and one that scatters image rows to placeholder ids."""

from __future__ import annotations

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

PLACEHOLDER, IMAGE_TOKEN, IGNORE, PATCHES, VOCABULARY = -200, 40, -100, 4, 48


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        use_cache=False,
    )  # fmt: skip


class Merging(LlamaForCausalLM):
    """A fork of nobody's that merges in a method with LLaVA's name and arguments; right padding."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.projector = nn.Linear(3, config.hidden_size)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.get_input_embeddings()(ids)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.projector(images)

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        if images is None:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        features, rows = iter(self.features(images)), []
        for ids, keep, wanted in zip(input_ids, attention_mask.bool(), labels, strict=True):
            embeds, row_labels = [], []
            for token, label in zip(ids[keep], wanted[keep], strict=True):
                image = token == PLACEHOLDER
                embeds.append(next(features) if image else self.embed(token[None]))
                row_labels.append(label.new_full((PATCHES,), IGNORE) if image else label[None])
            rows.append((torch.cat(embeds), torch.cat(row_labels)))
        embeds = nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
        labels = nn.utils.rnn.pad_sequence([row[1] for row in rows], batch_first=True, padding_value=IGNORE)
        mask = nn.utils.rnn.pad_sequence([row[1].new_ones(len(row[0])) for row in rows], batch_first=True).bool()
        return None, position_ids, mask, past_key_values, embeds, labels

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        ids, _, attention_mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
            input_ids, None, attention_mask, None, labels, images
        )
        return super().forward(
            input_ids=ids, attention_mask=attention_mask, inputs_embeds=embeds, labels=labels, **kwargs
        )


class Scattering(LlamaForCausalLM):
    """A newcomer to transformers: an image token id in the configuration, embeddings into the decoder."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.config.image_token_id = IMAGE_TOKEN
        self.projector = nn.Linear(3, config.hidden_size)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.get_input_embeddings()(ids)

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        embeds = self.embed(input_ids)
        if images is not None:
            where = (input_ids == IMAGE_TOKEN)[..., None].expand_as(embeds)
            embeds = embeds.masked_scatter(where, self.projector(images))
        return super().forward(attention_mask=attention_mask, inputs_embeds=embeds, labels=labels, **kwargs)


def batch_for(cls: type) -> dict[str, torch.Tensor]:
    """Rows with one image, none, and two."""
    generator = torch.Generator().manual_seed(3)
    block = [PLACEHOLDER] if issubclass(cls, Merging) else [IMAGE_TOKEN] * PATCHES
    ids, labels = [], []
    for row, count in enumerate((1, 0, 2)):
        text = torch.randint(3, IMAGE_TOKEN, (8 - row,), generator=generator)
        ids.append(torch.cat([text[:1], *[torch.tensor(block)] * count, text[1:]]))
        labels.append(ids[-1].where(torch.arange(len(ids[-1])) > len(block) * count + 2, torch.tensor(IGNORE)))
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE),
        "images": torch.randn(3, PATCHES, 3, generator=generator),
    }
