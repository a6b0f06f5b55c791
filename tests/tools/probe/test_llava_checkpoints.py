"""The probe on checkpoints of the real LLaVA-1.5 classes, saved and loaded as a user's are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from literal import literal_vista
from probe_site import OPTIONS, Site, run
from traced import trace

from llava_vista import VistaConfig, attach
from llava_vista.errors import ProbeError
from llava_vista.hooks.probed_samples import SampleProbe, token_alignment
from llava_vista.tools.probe.conversation_samples import Sample, load_samples, open_image, visual_marks
from llava_vista.tools.probe.hosts import load_checkpoint
from llava_vista.tools.probe.layer_readings import LayerReadings

pytestmark = pytest.mark.environments("llava")


@pytest.fixture
def subject(site: Site) -> Any:
    return load_checkpoint(site.checkpoints[0], OPTIONS)


def read(site: Site, count: int, path: Path | None = None) -> tuple[Sample, ...]:
    return load_samples(path or site.conversations, site.images, count, 0).chosen


def encode(subject: Any, samples: tuple[Sample, ...]) -> list[dict[str, Any]]:
    return [subject.encode(sample.turns, open_image(sample.image)) for sample in samples]


def literally(subject: Any, item: dict[str, Any], drop_image: bool) -> torch.Tensor:
    """log p of each answer token of one sample, by the stock model, without anything of the probe.

    ``drop_image`` takes the image's rows out of the sequence and leaves every other row its position.
    """
    model, batch = subject.model, subject.collate([item])
    embeds = model.prepare_inputs_labels_for_multimodal(
        batch["input_ids"], None, None, None, None, batch["images"], None
    )[4]
    at = int((item["input_ids"] < 0).nonzero())
    size = embeds.shape[1] - len(item["input_ids"]) + 1
    position = torch.arange(embeds.shape[1])
    keep = (position < at) | (position >= at + size) if drop_image else position >= 0
    # What is dropped goes to the end, where no text sees it: this Llama's rotary table is as long as its input.
    order = torch.cat([position[keep], position[~keep]])
    hidden = model.model(inputs_embeds=embeds[:, order], position_ids=order[None])[0][:, : int(keep.sum())]
    logits = torch.full((embeds.shape[1], model.config.vocab_size), torch.nan)
    logits[keep] = model.lm_head(hidden)[0]
    answer = (item["labels"] >= 0).nonzero().squeeze(1)
    return torch.stack([logits[i + size - 2].log_softmax(-1)[item["labels"][i]] for i in answer])


@contextmanager
def probing(subject: Any) -> Iterator[tuple[SampleProbe, LayerReadings]]:
    probe = SampleProbe(subject.model, VistaConfig(weight=0))
    readings = LayerReadings(probe.observer, attention=True, states=True)
    yield probe, readings
    readings.remove()
    probe.observer.remove()


def test_information_is_the_models_own(site, subject) -> None:
    """In a padded batch as for one sample alone; masked as if the image's rows were not there."""
    encoded = encode(subject, read(site, 5))
    batch = subject.collate(encoded)
    assert not bool(batch["attention_mask"].all())  # ragged
    with torch.no_grad(), probing(subject) as (probe, _):
        found = probe.take(subject.model(**batch).loss)
    with torch.no_grad():
        for sample, item in zip(found, encoded, strict=True):
            literal = literally(subject, item, False) - literally(subject, item, True)
            torch.testing.assert_close(sample.nats, literal, atol=4e-5, rtol=1e-4)
            assert sample.nats.abs().max() > 1e-2  # the image matters
            assert sum(sample.record["nats"]) == pytest.approx(float(literal.sum()), abs=1e-4)


@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_alignment_weighted_and_summed_is_vista_loss(site, subject, method) -> None:
    """And the bins of a record hold the same values, summed."""
    batch = subject.collate(encode(subject, read(site, 5)))
    config = VistaConfig(method=method)
    handle = attach(subject.model, config, add_to_loss=False)
    with torch.no_grad():
        subject.model(**batch)
    attached = handle.loss()
    handle.detach()
    seen = trace(subject.model, batch)
    losses = []
    with torch.no_grad(), probing(subject) as (probe, _):
        records = [sample.record for sample in probe.take(subject.model(**batch).loss)]
    for row, record in enumerate(records):
        last = int(seen.layout.image[row].nonzero().max())
        both = token_alignment(seen.inputs_embeds[row, seen.layout.text[row]], seen.last_hidden_state[row, last])
        values = both[("cosine", "l2").index(method)]
        m = len(values)
        losses.append(-(values * torch.arange(1, m + 1) / m / m).sum())
        assert sum(record[method]) == pytest.approx(float(values.sum()), rel=1e-5)
        assert (
            record[method][2] == pytest.approx(float(values[2:4].sum()), rel=1e-5) and sum(record["text_tokens"]) == m
        )
    summed = torch.stack(losses).mean()
    literal, _ = literal_vista(
        seen.inputs_embeds.double(), seen.last_hidden_state.double(), seen.layout.text, seen.layout.image, method
    )
    assert summed.item() == pytest.approx(literal.item(), rel=1e-5)
    assert summed.item() == pytest.approx(attached.item(), rel=1e-5)


def test_attention_and_states_are_the_models_own(site, subject) -> None:
    batch = subject.collate(encode(subject, read(site, 3)))
    with torch.no_grad(), probing(subject) as (probe, seen):
        probe.take(subject.model(**batch).loss)  # the pass without the image is not read
    with torch.no_grad():
        plain = subject.model(**batch, output_attentions=True, output_hidden_states=True)
    assert len(seen.attention) == len(plain.attentions) == 2
    for row in range(3):
        image = seen.layout.image[row].nonzero().squeeze(1).tolist()
        assert len(image) == 9
        for mine, weights in zip(seen.attention, plain.attentions, strict=True):
            mass = sum(weights[row, :, :, position].mean(dim=0) for position in image)
            torch.testing.assert_close(mine[row], mass)
        for mine, hidden in zip(seen.states[:-1], plain.hidden_states[:-1], strict=True):
            torch.testing.assert_close(mine[row], hidden[row, image].mean(dim=0))
    before_norm = []
    hook = subject.model.model.layers[-1].register_forward_hook(lambda m, a, output: before_norm.append(output[0]))
    with torch.no_grad():
        subject.model(**batch)
    hook.remove()
    torch.testing.assert_close(seen.states[-1][0], before_norm[0][0, seen.layout.image[0]].mean(dim=0))


def test_the_model_is_left_as_it_was(site, subject) -> None:
    model = subject.model
    before = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    own = dict(vars(type(model)))
    with torch.no_grad(), probing(subject) as (probe, _):
        probe.take(model(**subject.collate(encode(subject, read(site, 2)))).loss)
        assert {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()} != before
    assert {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()} == before
    assert dict(vars(type(model))) == own


def test_words_marked_visual_are_found_in_llavas_tokens(site, subject) -> None:
    """Marks are looked for turn by turn, and the decoded tokens are the marked word."""
    path = site.root / "marked.json"
    record = next(record for record in json.loads(site.conversations.read_text()) if "image" in record)
    word = record["conversations"][3]["value"].split()[-1].rstrip(".")
    record["conversations"][3]["visual"] = [word]
    record["conversations"][5]["visual"] = ["the"]  # a word of every answer, marked in one
    path.write_text(json.dumps([record]))
    (sample,) = read(site, 1, path)
    (item,) = encode(subject, (sample,))
    ids = item["labels"][item["labels"] >= 0]
    marks = visual_marks(item["labels"], sample.turns, subject.decode)
    assert len(ids) == len(marks)
    runs = [list(run) for kept, run in itertools.groupby(item["labels"].tolist(), lambda label: label >= 0) if kept]
    start = [0, *itertools.accumulate(len(run) for run in runs)]
    marked = [at for at, mark in enumerate(marks) if mark]
    first, second = ([at for at in marked if start[turn] <= at < start[turn + 1]] for turn in (1, 2))
    assert len(first) + len(second) == len(marked)
    assert subject.decode(ids[first].tolist()).strip().rstrip(".") == word
    assert set(subject.decode(ids[second].tolist()).lower().split()) == {"the"}


def test_two_checkpoints_end_to_end(site, tmp_path, capsys) -> None:
    first, second = run(site, tmp_path, *site.checkpoints, "--data", site.conversations, "--batch-size", 5)
    assert (first["name"], second["name"]) == ("baseline", "vista")
    for item in (first, second):
        assert (item["host"], item["adapter"], item["template"]) == ("llava", "llava", "v1")
        assert item["samples"] == 12 and item["passed_over"] == {"without an image": 3}
        assert set(item["curves"]) == {"information", "attention", "attention_by_layer", "cosine", "l2"}
        for curve in item["curves"].values():
            assert max(one["n"] for one in curve) == 12 and all(one["confidence"] == 0.95 for one in curve)
        assert item["curves"]["attention"][0]["n"] == 0  # the text before the image cannot see it
        neighbours = item["neighbours"]
        assert (neighbours["k"], neighbours["images"], neighbours["depth"]) == (5, 12, [0, 1, 2])
        assert all(0 <= point["null"]["value"] <= 1 for point in neighbours["by_depth"])
        assert item["chance"]["value"] < item["own_first"]["n"] == 12
    difference = second["difference"]
    assert difference["samples"] == 12
    for key in ("information", "attention", "slope"):
        assert difference[key]["value"] == pytest.approx(second[key]["value"] - first[key]["value"])
    assert (tmp_path / "probe.png").stat().st_size > 50_000
    assert (tmp_path / "probe-neighbours.pdf").is_file()
    assert "VISTA trains it" in capsys.readouterr().out


def test_own_answers_are_those_of_stock_llava(site, subject, tmp_path) -> None:
    from llava_vista.tools.demo.heldout_answers import load_records, prompt_for

    questions = load_records(site.questions)[:3]
    for record in questions:
        del record["answer"]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in questions))
    (item,) = run(
        site, tmp_path / "out", site.checkpoints[0], "--data", path, "--max-new-tokens", 6, "--measures", "information"
    )
    assert item["answers"] == "the model's own, greedy"
    from llava.mm_utils import process_images, tokenizer_image_token

    for sample, question in zip(load_samples(path, site.images, 9, 0).chosen, questions, strict=True):
        picture = open_image(sample.image)
        ids = tokenizer_image_token(prompt_for(question["text"]), subject.tokenizer, return_tensors="pt")[None]
        pixels = process_images([picture], subject.vision.image_processor, subject.model.config)
        stock = subject.model.generate(ids, images=pixels, do_sample=False, max_new_tokens=6)[0]
        text, cut = subject.answer(sample.turns, picture, 6)
        assert text == subject.tokenizer.decode(stock, skip_special_tokens=True).strip()
        assert cut == bool(stock[-1] != subject.tokenizer.eos_token_id)


def test_broken_weights_are_named(site, subject) -> None:
    batch = subject.collate(encode(subject, read(site, 2)))
    with torch.no_grad():
        subject.model.lm_head.weight.fill_(torch.nan)
        with probing(subject) as (probe, _), pytest.raises(ProbeError, match="logits are NaN"):
            probe.take(subject.model(**batch).loss)
