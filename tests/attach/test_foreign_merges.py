"""Merge methods of habits that no known host has: exact, or refused, and never another training."""

from __future__ import annotations

import pytest
import torch
from merging_host import IGNORE, PATCHES, PLACEHOLDER, Merging, batch_for, config
from torch import nn

from llava_vista import LayoutError, VistaConfig, attach
from llava_vista.attach.observation import Observer, Recorder

pytestmark = pytest.mark.environments("latest")

merge = Merging.prepare_inputs_labels_for_multimodal


def build(cls: type) -> nn.Module:
    torch.manual_seed(0)
    return cls(config()).train()


def train(model: nn.Module, steps: int = 2) -> list[torch.Tensor]:
    """Two steps on the batch; the weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(1)
    for _ in range(steps):
        model(**batch_for(type(model))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in model.parameters()]


class Keeps(Merging):
    """Leaves what it made of the labels on itself, for a loss of its own."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        values = merge(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)
        self.kept = {"labels": values[-1]}
        return values


class Counts(Merging):
    """Leaves the number of supervised tokens in a submodule."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        self.projector.supervised = int((labels != IGNORE).sum())
        return merge(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)


class Writes(Merging):
    """Masks the labels of the batch in place."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        values = merge(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)
        labels[:, -1] = IGNORE
        return values


class Inverted(Merging):
    """Returns 1 where there is padding."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        values = list(merge(self, input_ids, position_ids, attention_mask, past_key_values, labels, images))
        values[2] = ~values[2]
        return tuple(values)

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        _, _, mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
            input_ids, None, attention_mask, None, labels, images
        )
        return super(Merging, self).forward(attention_mask=~mask, inputs_embeds=embeds, labels=labels)


class OfText(Inverted):
    """Returns 1 where there is text."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        values = merge(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)
        ones = merge(self, input_ids, None, attention_mask, None, torch.ones_like(input_ids), images)[-1]
        return *values[:2], ones == 1, *values[3:]


class Lists(Merging):
    """Gets ragged rows."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        given = [list(torch.unbind(values)) for values in (input_ids, labels)]
        _, _, mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
            given[0], None, attention_mask, None, given[1], images
        )
        return super(Merging, self).forward(attention_mask=mask, inputs_embeds=embeds, labels=labels)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Keeps, "another attribute Keeps.kept with position codes"),
        (Counts, "another attribute Linear.supervised with position codes"),
        (Writes, "it writes into the labels"),
        (Inverted, "looks like the attention mask is 0 at text tokens"),
        (OfText, "looks like the attention mask is 0 at text tokens"),
        (Lists, "input_ids is a list"),
    ],
)
def test_what_cannot_be_followed_is_named(cls: type, message: str) -> None:
    """And an observer leaves such a training as it is."""
    plain = train(build(cls))
    model = build(cls)
    handle = attach(model, VistaConfig(weight=0.0))
    assert all(map(torch.equal, train(model), plain))
    handle.detach()
    model = build(cls)
    handle = attach(model)
    with pytest.raises(LayoutError, match=message):
        model(**batch_for(cls))
    handle.detach()
    assert all(map(torch.equal, train(model), plain))


class Remembers(Merging):
    """Its tower has a noise of its own, which fades with the number of calls, and keeps a history."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.projector.calls, self.projector.history, self.seen = 0, [], {}
        self.projector.noise = torch.Generator().manual_seed(5)

    def features(self, images):
        tower = self.projector
        tower.calls += 1
        tower.history.append(tower.calls)
        self.seen[tower.calls] = True
        return tower(images) + torch.randn(1, generator=tower.noise) / tower.calls


def test_repetitions_of_the_first_merge_leave_no_trace() -> None:
    plain, model = build(Remembers), build(Remembers)
    handle = attach(model, VistaConfig(weight=0.0))
    assert all(map(torch.equal, train(model), train(plain)))
    assert handle.metrics()["vista_aligned_samples"] == 4
    for ours, theirs in ((model, plain), (model.projector, plain.projector)):
        assert {name for name in vars(ours)} == {name for name in vars(theirs)}
    assert (model.projector.history, model.projector.calls, model.seen) == ([1, 2], 2, {1: True, 2: True})
    handle.detach()


class Suffixed(Merging):
    """Puts learned rows before and behind every sample, also where there is no image."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        *rest, mask, past, embeds, labels = merge(
            self, input_ids, position_ids, attention_mask, past_key_values, labels, images
        )
        more = self.projector.weight.T[None].expand(len(embeds), -1, -1)[:, :2]
        counts, rows = mask.sum(1).tolist(), []
        for row, count in enumerate(counts):
            rows.append([torch.cat([part[:1], own[row], part[:1]]) for own, part in (
                (embeds[:, :count], more[row]), (labels[:, :count], labels.new_full((2,), IGNORE)),
                (mask[:, :count], mask.new_ones(2)),
            )])  # fmt: skip
        pad = nn.utils.rnn.pad_sequence
        embeds, mask = (pad([row[at] for row in rows], batch_first=True) for at in (0, 2))
        return *rest, mask, past, embeds, pad([row[1] for row in rows], batch_first=True, padding_value=IGNORE)


def test_rows_in_no_tokens_place_are_no_images() -> None:
    model, batch = build(Suffixed), batch_for(Suffixed)
    recorder = Recorder()
    observer = Observer(model, recorder)
    model(**batch)
    observer.remove()
    assert recorder.last.problem is None
    layout = recorder.last.layout
    marks = torch.where(layout.text, 1, torch.where(layout.image, 2, 0))
    for row, ids in zip(marks, batch["input_ids"], strict=True):
        wanted = "".join("i" * PATCHES if token == PLACEHOLDER else "t" for token in ids.tolist() if token != 0)
        assert "".join("-ti"[mark] for mark in row).rstrip("-") == f"-{wanted}"


class Static(Merging):
    """Merges in a static method, called through the class."""

    @staticmethod
    def prepare_inputs_labels_for_multimodal(
        input_ids, position_ids, attention_mask, past_key_values, labels, images, model=None
    ):
        return merge(model, input_ids, position_ids, attention_mask, past_key_values, labels, images)

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        _, _, mask, _, embeds, labels = type(self).prepare_inputs_labels_for_multimodal(
            input_ids, None, attention_mask, None, labels, images, model=self
        )
        ids = input_ids if embeds is None else None
        return super(Merging, self).forward(ids, attention_mask=mask, inputs_embeds=embeds, labels=labels)


class Silent(Merging):
    """Its merge gives nothing back for text alone."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        if images is None:
            return None
        return merge(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        given = (input_ids, None, attention_mask, None, labels, images)
        _, _, mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(*given) or merge(self, *given)
        ids = input_ids if embeds is None else None
        return super(Merging, self).forward(ids, attention_mask=mask, inputs_embeds=embeds, labels=labels)


@pytest.mark.parametrize("cls", [Static, Silent])
def test_calls_that_show_nothing_go_through(cls: type) -> None:
    batches = [batch_for(cls), {**batch_for(cls), "images": None}]
    batches[1]["input_ids"] = batches[1]["input_ids"].clamp(min=1)
    plain = [build(cls)(**batch).loss for batch in batches]
    model = build(cls)
    handle = attach(model, VistaConfig(weight=0.0))
    assert [model(**batch).loss for batch in batches] == plain
    handle.detach()
    handle = attach(model)
    if cls is Static:
        with pytest.raises(LayoutError, match="the method was not called"):
            model(**batches[0])
    else:
        assert model(**batches[0]).loss > plain[0] and model(**batches[1]).loss == plain[1]
    handle.detach()


class Numbered(Merging):
    """Carries the numbers of the samples of a row through the merge, in the attention mask."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        values = list(merge(self, input_ids, position_ids, attention_mask, past_key_values, labels, images))
        values[2] = nn.utils.rnn.pad_sequence(
            [
                mask[mask > 0].repeat_interleave(torch.where(ids[mask > 0] == PLACEHOLDER, PATCHES, 1))
                for ids, mask in zip(input_ids, attention_mask, strict=True)
            ],
            batch_first=True,
        )
        return tuple(values)


def test_rows_of_several_samples_after_rows_of_one() -> None:
    model, batch = build(Numbered), batch_for(Numbered)
    keep = batch["attention_mask"].bool()
    packed = {name: batch[name][keep][None] for name in ("input_ids", "labels")}
    packed["attention_mask"] = torch.cat([torch.full((count,), n) for n, count in enumerate(keep.sum(1), 1)])[None]
    recorder = Recorder()
    observer = Observer(model, recorder)
    model(**batch)
    assert recorder.last.layout.spans is None
    model(**packed, images=batch["images"])
    observer.remove()
    assert recorder.last.problem is None
    lengths = [int(row.sum()) + (PATCHES - 1) * int((ids == PLACEHOLDER).sum())
               for row, ids in zip(keep, batch["input_ids"], strict=True)]  # fmt: skip
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    assert [tuple(span) for span in recorder.last.layout.spans] == [(0, 0, ends[1]), (0, ends[2], ends[3])]
