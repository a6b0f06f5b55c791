"""The rarer contracts of the LLaVA family on stand-ins written here.

One stand-in merges as the older LLaVA forks do (five values, padding kept, image labels of its own), one as VILA does
(`_embed`, three values, labels in the middle, rows packed into one).
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from literal import literal_vista
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from llava_vista import Adapter, LayoutError, VistaConfig, attach, register_adapter
from llava_vista.adapters import ADAPTERS, all_adapters, find_adapter
from llava_vista.attach.observation import Observer, Recorder
from llava_vista.testing import check_adapter

PLACEHOLDER, IMAGE_LABEL, IGNORE, PATCHES, VOCABULARY, PAD = -200, -300, -100, 4, 48, 0


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        use_cache=False,
    )  # fmt: skip


def join(rows: list[torch.Tensor], value: float = 0) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


class Padded(LlamaForCausalLM):
    """Five values; padding keeps its place, its embeddings and its labels, and is told by the mask alone.

    Image positions are labelled -300, as CAL does, and the decoder runs a first time without gradients and images.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.projector = nn.Linear(3, config.hidden_size)

    def prepare_inputs_labels_for_multimodal(self, input_ids, attention_mask, past_key_values, labels, images):
        if images is None:
            return input_ids, attention_mask, past_key_values, None, labels
        features, embeds, masks, wanted = iter(self.projector(images)), [], [], []
        for ids, mask, row in zip(input_ids, attention_mask, labels, strict=True):
            parts = []
            for token, kept, label in zip(ids, mask, row, strict=True):
                image = token == PLACEHOLDER
                part = next(features) if image else self.get_input_embeddings()(token[None])
                label = torch.full((PATCHES,), IMAGE_LABEL) if image else label[None]
                parts.append((part, kept.expand(len(part)), label))
            for found, merged in zip((embeds, masks, wanted), zip(*parts, strict=True), strict=True):
                found.append(torch.cat(merged))
        return None, join(masks), past_key_values, join(embeds), join(wanted, IGNORE)

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        ids, mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
            input_ids, attention_mask, None, labels, images
        )
        if embeds is not None and labels is not None:
            self.seen_labels = labels.clone()
            image = labels == IMAGE_LABEL
            with torch.no_grad():
                self.model(attention_mask=mask * ~image, inputs_embeds=embeds)
            labels[image] = IGNORE
        return super().forward(input_ids=ids, attention_mask=mask, inputs_embeds=embeds, labels=labels, **kwargs)


class Decoder(nn.Module):
    """One layer of causal attention within a segment of the row: padding, or one of the samples that share it."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed_tokens, self.norm = nn.Embedding(VOCABULARY, width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, inputs_embeds: torch.Tensor, segments: torch.Tensor) -> tuple[torch.Tensor]:
        scores = self.query(inputs_embeds) @ self.key(inputs_embeds).mT  # (B, L, L)
        attended = torch.tril(segments[:, :, None] == segments[:, None, :])
        weights = scores.masked_fill(~attended, torch.finfo(scores.dtype).min).softmax(dim=-1)
        return (self.norm(inputs_embeds + weights @ self.value(inputs_embeds)),)


class LanguageModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model, self.lm_head = Decoder(), nn.Linear(32, VOCABULARY)

    def forward(self, inputs_embeds, segments, labels) -> CausalLMOutput:
        logits = self.lm_head(self.model(inputs_embeds=inputs_embeds, segments=segments)[0])
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE)
        return CausalLMOutput(loss=loss, logits=logits)


class Embedding(nn.Module):
    """A model around a language model: `_embed` gives embeddings, labels and mask, and packing comes after it."""

    def __init__(self, packing: bool = False) -> None:
        super().__init__()
        self.llm, self.projector = LanguageModel(), nn.Linear(3, 32)
        self.packing, self.shuffle = packing, False

    def get_input_embeddings(self) -> nn.Module:
        return self.llm.model.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.llm.lm_head

    def _embed(self, input_ids, media, media_config, labels, attention_mask):
        labels = torch.full_like(input_ids, IGNORE) if labels is None else labels
        mask = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        features, embeds, wanted = iter(self.projector(media["image"])), [], []
        for ids, kept, row in zip(input_ids, mask, labels, strict=True):
            tokens = list(zip(ids[kept], row[kept], strict=True))
            embeds.append(
                torch.cat(
                    [
                        next(features) if token == PLACEHOLDER else self.get_input_embeddings()(token[None])
                        for token, _ in tokens
                    ]
                )
            )
            wanted.append(
                torch.cat(
                    [torch.full((PATCHES,), IGNORE) if token == PLACEHOLDER else label[None] for token, label in tokens]
                )
            )
        return join(embeds), join(wanted, IGNORE), join([torch.ones(len(row)) for row in embeds]).bool()

    def repack(self, embeds, labels, mask):
        """All rows in one, a dummy at its end; each sample's first label is dropped, for it follows another sample."""
        order = list(range(len(embeds)))[:: -1 if self.shuffle else 1]
        rows = [labels[row][mask[row]].clone() for row in order]
        for row in rows:
            row[0] = IGNORE
        segments = torch.cat(
            [torch.full((len(row),), number) for number, row in enumerate(rows)] + [torch.tensor([-1])]
        )
        embeds = torch.cat([*(embeds[row][mask[row]] for row in order), embeds.new_zeros(1, embeds.shape[-1])])
        return embeds[None], torch.cat([*rows, torch.tensor([IGNORE])])[None], segments[None]

    def forward(self, input_ids=None, media=None, attention_mask=None, labels=None):
        embeds, labels, mask = self._embed(input_ids, media, {}, labels, attention_mask)
        segments = mask.long()
        if self.packing and self.training:
            embeds, labels, segments = self.repack(embeds, labels, mask)
        return self.llm(inputs_embeds=embeds, labels=labels, segments=segments)


@pytest.fixture(autouse=True)
def adapters() -> Iterator[None]:
    vila = next(adapter for adapter in all_adapters() if adapter.name == "vila")
    register_adapter("padded")(type("PaddedAdapter", (Adapter,), {"classes": (f"{__name__}.Padded",)}))
    register_adapter("embedding")(type("EmbeddingAdapter", (type(vila),), {"classes": (f"{__name__}.Embedding",)}))
    yield
    ADAPTERS.remove("padded")
    ADAPTERS.remove("embedding")


def batch(images_per_row: tuple[int, ...] = (1, 0, 2), length: int = 12) -> dict:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCABULARY, (len(images_per_row), length), generator=generator)
    mask, labels = torch.ones_like(ids), ids.clone()
    for row, count in enumerate(images_per_row):
        mask[row, length - row :] = 0
        ids[row, 1 : 1 + 2 * count : 2] = PLACEHOLDER
        labels[row, : 3 + 2 * count] = IGNORE
    ids[mask == 0] = PAD
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "images": torch.randn(sum(images_per_row), PATCHES, 3, generator=generator),
    }


def media_batch() -> dict:
    inputs = batch()
    inputs["media"] = {"image": inputs.pop("images")}
    return inputs


def test_five_values_padding_kept_and_a_decoder_that_runs_twice() -> None:
    # An ignored padding label would be as good as none: here padding is labelled like text.
    outcomes = check_adapter(lambda: Padded(config()), batch)
    assert {outcome.result for outcome in outcomes} <= {"ok", "skipped"}


def test_the_host_gets_its_own_image_labels_and_padding_is_no_text() -> None:
    model, inputs = Padded(config()).train(), batch()
    model(**inputs)
    plain = model.seen_labels
    handle = attach(model)
    model(**inputs)
    assert torch.equal(model.seen_labels, plain)
    assert (plain == IMAGE_LABEL).sum() == 3 * PATCHES
    handle.detach()
    recorder = Recorder()
    observer = Observer(model, recorder)
    model(**inputs)
    observer.remove()
    layout = recorder.last.layout
    assert layout.text.sum(dim=1).tolist() == [11, 11, 8]
    assert layout.image.sum(dim=1).tolist() == [PATCHES, 0, 2 * PATCHES]


def test_embed_style() -> None:
    outcomes = check_adapter(lambda: Embedding(), media_batch)
    assert {outcome.result for outcome in outcomes} <= {"ok", "skipped"}


def test_embed_style_makes_its_mask_itself() -> None:
    model, inputs = Embedding().train(), media_batch()
    del inputs["attention_mask"]
    plain = model(**inputs).loss
    handle = attach(model, VistaConfig(weight=0))
    assert torch.equal(model(**inputs).loss, plain)
    assert handle.metrics()["vista_aligned_samples"] == 2


@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_packed_rows_are_told_apart(method: str) -> None:
    """The same samples, packed and not: one loss, one gradient."""
    torch.manual_seed(0)
    model, found = Embedding().train(), []
    for packing in (False, True):
        model.packing = packing
        handle = attach(model, VistaConfig(method=method), add_to_loss=False)
        model(**media_batch())
        model.zero_grad()
        term = handle.loss()
        term.backward()
        found.append(
            (term.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        )
        handle.detach()
    (apart, gradients), (packed, packed_gradients) = found
    torch.testing.assert_close(packed, apart, rtol=1e-6, atol=1e-7)
    assert gradients.keys() == packed_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-5, atol=1e-7)


def test_packed_term_is_the_equations() -> None:
    torch.manual_seed(0)
    model = Embedding(packing=False).train()
    seen: dict = {}
    model.llm.model.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(embeds=kwargs["inputs_embeds"], hidden=output[0]),
        with_kwargs=True,
    )
    inputs = media_batch()
    model(**inputs)
    codes = torch.arange(inputs["labels"].numel()).view_as(inputs["labels"])
    _, merged, mask = model._embed(inputs["input_ids"], inputs["media"], {}, codes, inputs["attention_mask"])
    expected, _ = literal_vista(
        seen["embeds"].double(), seen["hidden"].double(), merged >= 0, (merged < 0) & mask, "l2"
    )
    model.packing = True
    handle = attach(model, add_to_loss=False)
    model(**inputs)
    assert handle.loss().item() == pytest.approx(expected.item(), abs=1e-6)


def test_weight_zero_with_packing_changes_no_bit() -> None:
    model = Embedding(packing=True).train()
    losses = [model(**media_batch()).loss]
    handle = attach(model, VistaConfig(weight=0))
    losses.append(model(**media_batch()).loss)
    assert torch.equal(*losses)
    assert handle.metrics()["vista_aligned_samples"] == 2


def test_packing_that_is_not_understood_stops() -> None:
    model = Embedding(packing=True).train()
    model.shuffle = True
    attach(model)
    with pytest.raises(LayoutError, match="packed several samples into a row in a way that VISTA cannot follow"):
        model(**media_batch())


# --- the shipped data sheets ---


def test_a_wrapper_is_not_taken_for_the_model() -> None:
    class Forwarding(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.base_model = model

        def __getattr__(self, name: str):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self.base_model, name)

    model = Padded(config())
    wrapped = Forwarding(model)
    assert callable(wrapped.prepare_inputs_labels_for_multimodal)
    assert find_adapter(wrapped).module is model
