"""Rows of other modalities are neither text nor image, whatever batch they first appear in."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from merging_host import IGNORE, IMAGE_TOKEN, PATCHES, Merging, Scattering, config
from torch import nn

from llava_vista import LayoutError
from llava_vista.attach.observation import Observer, Recorder

pytestmark = pytest.mark.environments("latest")

IMAGE, AUDIO, REGION, WORD = -200, -500, 45, 44
#: id -> rows
ROWS = {IMAGE: PATCHES, AUDIO: 3}


class Hearing(Merging):
    """Expands images and sounds, puts region features in the place of their token; im_end bears the image's label."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        rows = []
        for ids, keep, wanted in zip(input_ids, attention_mask.bool(), labels, strict=True):
            embeds, marks = [], []
            for token, label in zip(ids[keep], wanted[keep], strict=True):
                if int(token) in ROWS:
                    count = ROWS[int(token)]
                    embeds.append(self.projector(torch.full((count, 3), float(token))))
                    marks.append(torch.full((count,), IGNORE))
                else:
                    region = token == REGION
                    embeds.append(self.projector(torch.ones(1, 3)) if region else self.embed(token[None]))
                    marks.append(label[None])
            if self.shifts:  # LLaVA's first method: the token behind an image bears the image's label
                for at in range(1, len(marks)):
                    before = ids[keep][at - 1]
                    if before == IMAGE and int(ids[keep][at]) not in ROWS:
                        marks[at] = wanted[keep][at - 1][None]
            rows.append((torch.cat(embeds), torch.cat(marks)))
        pad = nn.utils.rnn.pad_sequence
        embeds = pad([row[0] for row in rows], batch_first=True)
        labels = pad([row[1] for row in rows], batch_first=True, padding_value=IGNORE)
        mask = pad([torch.ones(len(row[0])) for row in rows], batch_first=True).bool()
        return None, position_ids, mask, past_key_values, embeds, labels

    shifts = False


@pytest.fixture
def constants(monkeypatch):
    """The host names its placeholders."""
    root = Hearing.__module__.split(".")[0]
    module = ModuleType(f"{root}.constants")
    module.IMAGE_TOKEN_INDEX, module.MODAL_INDEX_MAP = IMAGE, {"<audio>": AUDIO}
    monkeypatch.setitem(sys.modules, module.__name__, module)


def look(model: nn.Module, rows: list[list[int]]):
    pad = nn.utils.rnn.pad_sequence
    ids = pad([torch.tensor(row) for row in rows], batch_first=True)
    mask = pad([torch.ones(len(row)) for row in rows], batch_first=True)
    labels = ids.masked_fill(ids < 0, IGNORE)
    return model(input_ids=ids, attention_mask=mask, labels=labels, images=torch.zeros(1))


def expected(rows: list[list[int]]) -> list[str]:
    return ["".join({IMAGE: "i" * PATCHES, AUDIO: "-" * 3}.get(token, "t") for token in row) for row in rows]


def found(layout) -> list[str]:
    marks = torch.where(layout.text, 1, torch.where(layout.image, 2, 0))
    return ["".join("-ti"[int(mark)] for mark in row) for row in marks]


tokens = st.sampled_from([3, 7, 11, 19, IMAGE, AUDIO])


@pytest.mark.parametrize("shifts", [False, True])
def test_sounds_are_neither(constants, shifts: bool) -> None:
    torch.manual_seed(0)
    model = Hearing(config()).train()
    model.shifts = shifts
    recorder = Recorder()
    observer = Observer(model, recorder)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(rows=st.lists(st.lists(tokens, min_size=1, max_size=9), min_size=1, max_size=3))
    def check(rows):
        rows = [[3, *row] for row in rows]
        look(model, rows)
        neighbours = any({a, b} == {IMAGE, AUDIO} for row in rows for a, b in pairwise(row))
        if neighbours:
            assert "are neighbours in input_ids" in str(recorder.last.problem)
            return
        assert recorder.last.problem is None
        width = max(map(len, expected(rows)))
        assert found(recorder.last.layout) == [row.ljust(width, "-") for row in expected(rows)]
        layout = recorder.last.layout
        assert recorder.last.token_ids[layout.text].tolist() == [t for row in rows for t in row if t not in ROWS]

    check()
    observer.remove()


@pytest.mark.parametrize("first", [[], [[5, IMAGE, 6]]])
def test_an_unknown_placeholder_stops_in_whatever_batch(first: list) -> None:
    """Here the host has no constants, so that only LLaVA's image placeholder is known."""
    model, recorder = Hearing(config()).train(), Recorder()
    observer = Observer(model, recorder)
    if first:
        look(model, first)
        assert recorder.last.problem is None
    look(model, [[5, AUDIO, 6]])
    assert "in the place of tokens -500" in str(recorder.last.problem)
    observer.remove()


def test_regions_in_place_that_nobody_names_stop() -> None:
    model, recorder = Hearing(config()).train(), Recorder()
    observer = Observer(model, recorder)
    look(model, [[5, IMAGE, 6, REGION, 7]])
    assert "are not the rows of its embedding table" in str(recorder.last.problem)
    observer.remove()


class ScatteringSounds(Scattering):
    """A native class with sounds, which come in an argument of their own."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, sounds=None, **kwargs):
        embeds = self.embed(input_ids)
        for token, features in ((IMAGE_TOKEN, images), (WORD, sounds)):
            if features is not None:
                where = (input_ids == token)[..., None].expand_as(embeds)
                embeds = embeds.masked_scatter(where, self.projector(features))
        return super(Scattering, self).forward(
            attention_mask=attention_mask, inputs_embeds=embeds, labels=labels, **kwargs
        )


@pytest.mark.parametrize("is_named", [True, False])
def test_sounds_of_a_native_class_that_come_later(is_named: bool) -> None:
    model, recorder = ScatteringSounds(config()).train(), Recorder()
    if is_named:
        model.config.audio_token_id = WORD
    observer = Observer(model, recorder)
    ids = torch.tensor([[5, *[IMAGE_TOKEN] * 2, 7, 8, WORD, WORD, 9]])
    model(input_ids=ids.where(ids != WORD, 6), images=torch.randn(2, 3))
    assert recorder.last.problem is None
    model(input_ids=ids, images=torch.randn(2, 3), sounds=torch.randn(2, 3))
    if is_named:
        assert found(recorder.last.layout) == ["tiitt--t"]
    else:
        assert isinstance(recorder.last.problem, LayoutError)
        assert "are not the rows of its embedding table" in str(recorder.last.problem)
    observer.remove()
