"""The layout on the real LLaVA-1.5, against one rebuilt from `input_ids` alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_llava import IGNORE, IMAGE_TOKEN, PATCHES, VOCABULARY

from llava_vista import LayoutError, attach
from llava_vista.adapters import find_adapter
from llava_vista.attach.merge import Merger
from llava_vista.attach.observation import Observer, Recorder

pytestmark = pytest.mark.environments("llava")


@st.composite
def batches(draw):
    """Random ids: 1-4 rows, 0-3 images each (also adjacent, first or last), 1-3 tiles an image, ragged lengths."""
    rows = []
    for _ in range(draw(st.integers(1, 4))):
        tokens = draw(st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=12))
        for _ in range(draw(st.integers(0, 3))):
            tokens.insert(draw(st.integers(0, len(tokens))), IMAGE_TOKEN)
        rows.append(tokens)
    tiles = [draw(st.integers(1, 3)) for row in rows for _ in range(max(1, row.count(IMAGE_TOKEN)))]
    return {
        "rows": rows,
        "tiles": tiles if draw(st.booleans()) else None,
        "side": draw(st.sampled_from(["left", "right"])),
        "limit": draw(st.one_of(st.none(), st.integers(1, 80))),
        "with_mask": draw(st.booleans()),
        "supervised_from": draw(st.integers(0, 14)),
    }


def tensors(case):
    """The collator's tensors: right-padded ids, mask, labels; and the image tensors."""
    width = max(2, max(len(row) for row in case["rows"]))
    ids = torch.zeros(len(case["rows"]), width, dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    labels = torch.full_like(ids, IGNORE)
    for number, row in enumerate(case["rows"]):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = True
        for position, token in enumerate(row):
            if position >= case["supervised_from"] and token != IMAGE_TOKEN:
                labels[number, position] = token
    if case["tiles"] is None:
        images = torch.randn(sum(max(1, row.count(IMAGE_TOKEN)) for row in case["rows"]), 3, 16, 16)
    else:
        images = [torch.randn(count, 3, 16, 16) for count in case["tiles"]]
    return ids, mask if case["with_mask"] else None, labels, images


def rebuilt(case, ids, mask):
    """Per row, what stands at each merged position: a token id, "i" for image, None for padding."""
    merged, image = [], 0
    for number in range(len(ids)):
        row = ids[number].tolist() if mask is None else case["rows"][number]
        out = []
        for token in row:
            if token == IMAGE_TOKEN:
                out += ["i"] * (PATCHES * (1 if case["tiles"] is None else case["tiles"][image]))
                image += 1
            else:
                out.append(token)
        image += IMAGE_TOKEN not in row
        merged.append(out[: case["limit"]])
    width = max(len(row) for row in merged)
    pad = [[None] * (width - len(row)) for row in merged]
    return [gap + row if case["side"] == "left" else row + gap for row, gap in zip(merged, pad, strict=True)]


def test_layout_equals_reconstruction_over_random_batches(make_model) -> None:
    model = make_model()
    adapter, inner = find_adapter(model)
    count = 0

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=batches())
    def check(case):
        nonlocal count
        model.config.tokenizer_model_max_length, model.config.tokenizer_padding_side = case["limit"], case["side"]
        ids, mask, labels, images = tensors(case)
        arguments = (ids, None, mask, None, labels, images)
        with torch.no_grad():
            plain = inner.prepare_inputs_labels_for_multimodal(*arguments)
            ours, layout, *_ = Merger(adapter, inner)(inner.prepare_inputs_labels_for_multimodal, arguments, {})
        # the host gets back what it would have got
        for mine, theirs in zip(ours, plain, strict=True):
            assert (mine is None) == (theirs is None)
            assert theirs is None or (torch.equal(mine, theirs) and mine.dtype == theirs.dtype)
        # every position is what the ids say, and text embeddings are the table's rows
        expected = rebuilt(case, ids, mask)
        is_text = torch.tensor([[isinstance(item, int) for item in row] for row in expected], dtype=torch.bool)
        is_image = torch.tensor([[item == "i" for item in row] for row in expected], dtype=torch.bool)
        assert torch.equal(layout.text, is_text)
        assert torch.equal(layout.image, is_image)
        assert torch.equal(layout.answer, is_text & (plain[5] != IGNORE))
        tokens = torch.tensor([item for row in expected for item in row if isinstance(item, int)], dtype=torch.long)
        assert torch.equal(ours[4][layout.text], model.model.embed_tokens(tokens))
        count += 1

    check()
    assert count >= 2000


def test_generation_and_text_batches_pass_through(make_model) -> None:
    adapter, inner = find_adapter(make_model())
    method = inner.prepare_inputs_labels_for_multimodal
    ids = torch.randint(3, VOCABULARY, (2, 6))
    labels = ids.clone()
    merge = Merger(adapter, inner)
    result, layout, *_ = merge(method, (ids, None, None, None, None, torch.randn(2, 3, 16, 16)), {})
    assert layout is None
    assert result[5] is None
    result, layout, *_ = merge(method, (ids, None, None, None, labels, None), {})
    assert layout is None
    assert result[5] is labels
    assert result[0] is ids
    assert result[2] is None


def call(model, ids):
    return model(input_ids=ids, labels=ids.clone(), images=torch.randn(1, 3, 16, 16))


def test_values_that_no_sheet_names_are_found(make_model, monkeypatch) -> None:
    """Another number, in another order, with decoys of the same shapes."""
    model = make_model()
    ids = torch.tensor([[5, IMAGE_TOKEN, 7, 8]])
    torch.manual_seed(0)
    handle = attach(model)
    call(model, ids)
    expected = handle.metrics()
    handle.detach()
    original = type(model).prepare_inputs_labels_for_multimodal

    def nine(self, input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes=None):
        if labels is None:
            return original(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)
        ids, positions, mask, past, embeds, labels = original(
            self, input_ids, position_ids, attention_mask, past_key_values, labels, images
        )
        counted = torch.arange(embeds.shape[1])[None]
        return labels, [embeds[..., :3]], embeds, mask, counted, past, torch.zeros_like(embeds)[..., :7], positions, ids

    def forward(self, input_ids=None, labels=None, images=None):
        labels, _, embeds, mask, *_ = self.prepare_inputs_labels_for_multimodal(
            input_ids, None, None, None, labels, images
        )
        return super(type(self), self).forward(inputs_embeds=embeds, attention_mask=mask, labels=labels)

    monkeypatch.setattr(type(model), "prepare_inputs_labels_for_multimodal", nine)
    monkeypatch.setattr(type(model), "forward", forward)
    torch.manual_seed(0)
    handle = attach(model)
    call(model, ids)
    assert handle.metrics() == pytest.approx(expected, abs=1e-6)
    handle.detach()
    assert type(model).__dict__["prepare_inputs_labels_for_multimodal"] is nine


@pytest.mark.parametrize("value", ["embeds", "mask", "positions", "labels"])
def test_a_merge_that_depends_on_the_labels_is_named(make_model, monkeypatch, value: str) -> None:
    """After the refusal the host has what it would have without VISTA, random numbers included."""
    model = make_model()
    original = type(model).prepare_inputs_labels_for_multimodal

    def reading(self, input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes=None):
        values = list(original(self, input_ids, position_ids, attention_mask, past_key_values, labels, images))
        if labels is not None:
            torch.rand(1)
            positions, supervised = torch.arange(values[4].shape[1])[None], int((labels == IGNORE).sum())
            values[1] = (positions + (value == "positions") * supervised) % values[4].shape[1]
            values[2] = torch.ones_like(positions) - (value == "mask") * (positions < supervised).long()
            values[4] = values[4] * (1 + 0.01 * (value == "embeds") * supervised)
            values[5] = torch.where(values[5] == labels.max(), IGNORE, values[5]) if value == "labels" else values[5]
        return tuple(values)

    monkeypatch.setattr(type(model), "prepare_inputs_labels_for_multimodal", reading)
    ids = torch.tensor([[5, IMAGE_TOKEN, 7, 8]])
    labels = torch.where(torch.arange(4) < 2, IGNORE, ids)

    def run():
        torch.manual_seed(0)
        return model(input_ids=ids, labels=labels, images=torch.ones(1, 3, 16, 16)).loss.item(), torch.rand(1).item()

    plain = run()
    handle = attach(model)
    name = {"embeds": "inputs_embeds", "mask": "attention_mask", "positions": "position_ids"}.get(value)
    message = f"another {name} .* It reads the values of labels" if name else "in the place of tokens 8"
    with pytest.raises(LayoutError, match=message):
        run()
    handle.detach()
    assert run() == plain
    recorder = Recorder()
    observer = Observer(model, recorder)
    assert run() == plain
    observer.remove()
    assert recorder.last.problem is not None


def test_reordered_text_stops(make_model, monkeypatch) -> None:
    model = make_model()
    original = type(model).prepare_inputs_labels_for_multimodal

    def backwards(self, *args, **kwargs):
        *rest, labels = original(self, *args, **kwargs)
        return (*rest, labels.flip(1))

    monkeypatch.setattr(type(model), "prepare_inputs_labels_for_multimodal", backwards)
    adapter, inner = find_adapter(model)
    ids = torch.tensor([[5, IMAGE_TOKEN, 7, 8]])
    arguments = (ids, None, None, None, ids, torch.randn(1, 3, 16, 16))
    # a wrapper with *args keeps no parameter names: nothing can be coded, and nothing is claimed
    assert Merger(adapter, inner)(inner.prepare_inputs_labels_for_multimodal, arguments, {}).layout is None

    def named(self, input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes=None):
        return backwards(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)

    monkeypatch.setattr(type(model), "prepare_inputs_labels_for_multimodal", named)
    merged = Merger(adapter, inner)(inner.prepare_inputs_labels_for_multimodal, arguments, {})
    assert merged.layout is None and "out of order or twice" in str(merged.problem)
