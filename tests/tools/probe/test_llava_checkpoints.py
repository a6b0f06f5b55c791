"""The probe on checkpoints of the real LLaVA-1.5 classes, saved and loaded as a user's are."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from literal import literal_vista
from PIL import Image
from probe_site import OPTIONS, Site, run

from llava_vista import VistaConfig, attach, vista_loss
from llava_vista.cli import main
from llava_vista.errors import ProbeError
from llava_vista.tools.probe.conversation_samples import Sample, load_samples, open_image
from llava_vista.tools.probe.forward_trace import Tracer
from llava_vista.tools.probe.hosts import LoadOptions, load_checkpoint
from llava_vista.tools.probe.measures.alignment_curves import align
from llava_vista.tools.probe.measures.visual_information import VisualInformation, answer_log_probs, answer_runs
from llava_vista.tools.probe.probed_batch import exchanged_images

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


@pytest.mark.parametrize("blind", [False, True])
def test_log_probs_are_the_models_own(site, subject, blind) -> None:
    """In a padded batch as for one sample alone; masked as if the image's rows were not there."""
    samples = read(site, 5)
    encoded = encode(subject, samples)
    batch = subject.collate(encoded)
    assert not bool(batch["attention_mask"].all())  # ragged
    with Tracer(subject.model) as tracer:
        found = answer_log_probs(tracer.trace(batch, blind=blind), batch["labels"], [sample.name for sample in samples])
    with torch.no_grad():
        for mine, item in zip(found, encoded, strict=True):
            torch.testing.assert_close(mine, literally(subject, item, blind), atol=2e-5, rtol=1e-4)
            assert (mine - literally(subject, item, not blind)).abs().max() > 1e-2  # the image matters


@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_alignment_weighted_and_summed_is_vista_loss(site, subject, method) -> None:
    batch = subject.collate(encode(subject, read(site, 5)))
    with Tracer(subject.model) as tracer:
        seen = tracer.trace(batch)
    summed = -torch.stack([(getattr(sample, method) * sample.weight).sum() for sample in align(seen)]).mean()
    config = VistaConfig(method=method)
    handle = attach(subject.model, config, add_to_loss=False)
    with torch.no_grad():
        subject.model(**batch)
    attached = handle.loss()
    handle.detach()
    literal, _ = literal_vista(
        seen.inputs_embeds.double(), seen.last_hidden_state.double(), seen.layout.text, seen.layout.image, method
    )
    assert summed.item() == pytest.approx(literal.item(), rel=1e-5)
    assert summed.item() == pytest.approx(attached.item(), rel=1e-5)
    assert summed.item() == pytest.approx(
        vista_loss(seen.inputs_embeds, seen.last_hidden_state, seen.layout, config).item(), rel=1e-5
    )


def test_attention_and_states_are_the_models_own(site, subject) -> None:
    batch = subject.collate(encode(subject, read(site, 3)))
    with Tracer(subject.model) as tracer:
        seen = tracer.trace(batch, attention=True, states=True)
    with torch.no_grad():
        plain = subject.model(**batch, output_attentions=True, output_hidden_states=True)
    torch.testing.assert_close(seen.logits, plain.logits)
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


def test_merging_first_is_the_models_own_forward(site, subject) -> None:
    """As `generate` does it, without a loss: CAL and VIRAL have none in evaluation mode. The batch is left alone."""
    batch = subject.collate(encode(subject, read(site, 3)))
    before = {name: batch[name].clone() for name in ("input_ids", "labels", "attention_mask")}
    with Tracer(subject.model) as tracer:
        plain = tracer.trace(batch)
    with Tracer(subject.model, subject.run) as tracer:
        seen = tracer.trace(batch)
    torch.testing.assert_close(seen.logits, plain.logits, rtol=0, atol=0)
    assert torch.equal(seen.layout.text, plain.layout.text)
    assert torch.equal(seen.layout.answer, plain.layout.answer)
    assert all(torch.equal(batch[name], value) for name, value in before.items())


def test_the_model_is_left_as_it_was(site, subject) -> None:
    model = subject.model
    before = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    own = dict(vars(type(model)))
    batch = subject.collate(encode(subject, read(site, 2)))
    with Tracer(model) as tracer:
        tracer.trace(batch, blind=True, attention=True, states=True)
    with pytest.raises(IndexError), Tracer(model) as tracer:
        tracer.trace({**batch, "input_ids": batch["input_ids"].clamp(max=-1).abs() * 10_000}, attention=True)
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
    samples = read(site, 1, path)
    batch = subject.collate(encode(subject, samples))
    measure = VisualInformation("masked")
    with Tracer(subject.model) as tracer:
        seen = tracer.trace(batch)
        blind = tracer.trace(batch, blind=True)
        measure.add(SimpleNamespace(samples=samples, trace=seen, labels=batch["labels"], decode=subject.decode,
                                    without_image=(blind, batch["labels"])))  # fmt: skip
    ids = batch["labels"][batch["labels"] >= 0]
    assert len(ids) == len(measure.values[0])
    runs = answer_runs(batch["labels"][0])
    start = [0, *itertools.accumulate(len(run) for run in runs)]
    marked = measure.marks[0].nonzero().squeeze(1).tolist()
    first, second = ([at for at in marked if start[turn] <= at < start[turn + 1]] for turn in (1, 2))
    assert len(first) + len(second) == len(marked)
    assert subject.decode(ids[first].tolist()).strip().rstrip(".") == word
    assert set(subject.decode(ids[second].tolist()).lower().split()) == {"the"}


def curves(record: Any) -> list[dict[str, Any]]:
    """Every curve in a record, however deep."""
    if isinstance(record, dict):
        own = [record] if "mean" in record and isinstance(record["mean"], list) else []
        return own + [curve for value in record.values() for curve in curves(value)]
    return [curve for value in record for curve in curves(value)] if isinstance(record, list) else []


def test_two_checkpoints_end_to_end(site, tmp_path, capsys) -> None:
    record = run(site, tmp_path, *site.checkpoints, "--data", site.conversations, "--batch-size", 5)
    assert [item["name"] for item in record["checkpoints"]] == ["baseline", "vista"]
    for item in record["checkpoints"]:
        assert (item["host"], item["adapter"], item["template"]) == ("llava", "llava", "v1")
        assert item["samples"] == {"used": 12, "passed_over": {"without an image": 3}}
        found = curves({key: item[key] for key in ("information", "alignment", "attention")})
        assert len(found) == 1 + 3 + 2 * (2 + 2)
        for curve in found:
            assert curve["confidence"] == 0.95
            assert len(curve["x"]) == len(curve["mean"]) == len(curve["low"]) == len(curve["high"]) == len(curve["n"])
            assert max(curve["n"]) == 12
        for kind in ("by_layer", "by_position"):
            total, each = (item["attention"][kind][name]["mean"] for name in ("total", "per_image_token"))
            assert [value and value / 9 for value in total] == pytest.approx(each)
        first = item["attention"]["by_position"]["total"]["n"]
        assert first[0] == 0 and max(first) == 12  # the text before the image cannot see it
        neighbours = item["neighbours"]
        assert (neighbours["k"], neighbours["images"], neighbours["depth"]) == (5, 12, [0, 1, 2])
        assert all(0 <= point["null"]["value"] <= 1 for point in neighbours["by_depth"])
        target = item["alignment"]
        assert "not evidence" in target["note"]
        assert target["vista_loss"]["l2"]["value"] > 0
    assert (tmp_path / "probe.png").stat().st_size > 50_000
    svg = (tmp_path / "probe.svg").read_text()
    assert "<svg" in svg[:1000]
    assert "L_VISTA l2 (the training target)" in capsys.readouterr().out


@pytest.mark.parametrize("no_image", ["blank", "shuffled"])
def test_other_ways_of_having_no_image(site, subject, tmp_path, no_image) -> None:
    """Against the literal: the same conversation encoded with the other picture."""
    record = run(
        site, tmp_path, site.checkpoints[0], "--data", site.captions, "--no-image", no_image, "--template", "plain",
        "--measures", "information",
    )  # fmt: skip
    assert record["checkpoints"][0]["information"]["no_image"].startswith(f"{no_image}: ")
    samples = read(site, 20, site.captions)
    assert len(samples) == 12
    plain = load_checkpoint(site.checkpoints[0], LoadOptions(None, "plain", OPTIONS.device, OPTIONS.dtype))
    swapped = exchanged_images([sample.image for sample in samples], 0)
    expected, tokens = 0.0, 0
    with torch.no_grad():
        for sample in samples:
            picture = open_image(sample.image)
            other = (
                Image.new("RGB", picture.size, (127, 127, 127))
                if no_image == "blank"
                else open_image(swapped[sample.image])
            )
            known, guessed = (
                literally(plain, plain.encode(sample.turns, image), drop_image=False) for image in (picture, other)
            )
            expected, tokens = expected + float((known - guessed).sum()), tokens + len(known)
    mean = record["checkpoints"][0]["information"]["mean"]
    assert mean["tokens"] == tokens
    assert mean["value"] == pytest.approx(expected / tokens, abs=1e-4)


def test_own_answers_are_those_of_stock_llava(site, subject, tmp_path) -> None:
    from llava_vista.tools.demo.heldout_answers import load_records, prompt_for

    questions = load_records(site.questions)[:3]
    for record in questions:
        del record["answer"]
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in questions))
    record = run(
        site, tmp_path / "out", site.checkpoints[0], "--data", path, "--max-new-tokens", 6, "--measures", "information"
    )
    assert record["checkpoints"][0]["answers"] == "the model's own, greedy"
    from llava.mm_utils import process_images, tokenizer_image_token

    for sample, question in zip(load_samples(path, site.images, 9, 0).chosen, questions, strict=True):
        picture = open_image(sample.image)
        ids = tokenizer_image_token(prompt_for(question["text"]), subject.tokenizer, return_tensors="pt")[None]
        pixels = process_images([picture], subject.vision.image_processor, subject.model.config)
        stock = subject.model.generate(ids, images=pixels, do_sample=False, max_new_tokens=6)[0]
        text, cut = subject.answer(sample.turns, picture, 6)
        assert text == subject.tokenizer.decode(stock, skip_special_tokens=True).strip()
        assert cut == bool(stock[-1] != subject.tokenizer.eos_token_id)


def test_another_tower_by_name(site, tmp_path, monkeypatch) -> None:
    """With a stand-in for timm, which needs torchvision: only the calls that are made to it are tested."""
    import sys

    class Stand(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.mean(dim=(2, 3))

    def create_model(name: str, *, pretrained: bool, num_classes: int) -> Stand:
        if name != "stand_in":
            raise RuntimeError(f"Unknown model ({name})")
        assert pretrained and num_classes == 0
        return Stand()

    def create_transform(*, size: int, is_training: bool):
        return lambda image: torch.tensor(list(image.resize((size, size)).tobytes())).view(size, size, 3).float().mT

    data = SimpleNamespace(resolve_model_data_config=lambda model: {"size": 4}, create_transform=create_transform)
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model, data=data))
    command = (site.checkpoints[0], "--data", site.captions, "--measures", "neighbours", "--template", "plain")
    item = run(site, tmp_path, *command, "--tower", "stand_in")["checkpoints"][0]
    assert item["neighbours"]["tower"] == "timm stand_in"
    own = run(site, tmp_path, *command)["checkpoints"][0]
    assert own["neighbours"]["by_depth"] != item["neighbours"]["by_depth"]
    words = ["probe", *map(str, command), "--images", str(site.images), "--output", str(tmp_path)]
    assert main([*words, "--tower", "nothing"]) == 2


def test_broken_weights_are_named(site, subject) -> None:
    samples = read(site, 2)
    batch = subject.collate(encode(subject, samples))
    with torch.no_grad():
        subject.model.lm_head.weight.fill_(torch.nan)
    with Tracer(subject.model) as tracer, pytest.raises(ProbeError, match=f"sample {samples[0].name}: .*NaN"):
        answer_log_probs(tracer.trace(batch), batch["labels"], [sample.name for sample in samples])
