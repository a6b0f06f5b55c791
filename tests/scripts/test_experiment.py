"""The experiment's machinery, on sizes at which nothing is learned: not what comes out of it."""

# ruff: noqa: E402  (the experiment is a folder of scripts, so its folder has to be on the path first)

from __future__ import annotations

import json
import math
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "scripts" / "experiment"
sys.path.insert(0, str(FOLDER))

import effects
import held_out
import margins
import model
import prepare
import real
import report
import settings
import study
import world
from encode import IGNORE, IMAGE, Encoder

from llava_vista import SequenceLayout, VistaConfig, vista_loss

pytestmark = pytest.mark.environments("llava")

SIZES = settings.Sizes(**settings.REDUCED)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiment")


@pytest.fixture(scope="module")
def setup(work: Path) -> prepare.Setup:
    return prepare.prepare(settings.Run(0, sizes=SIZES), work)


def test_breaking_scenes_have_no_usual_colour_and_plain_ones_as_many_as_the_prior_says() -> None:
    place = settings.World(prior=0.7)
    breaking = world.make_scenes(place, 100, 0, "test", breaking=True)
    assert all(thing.color != world.USUAL[thing.shape] for scene in breaking for thing in scene.objects)
    plain = [thing for scene in world.make_scenes(place, 300, 0, "test") for thing in scene.objects]
    assert abs(sum(thing.color == world.USUAL[thing.shape] for thing in plain) / len(plain) - 0.7) < 0.03


def test_captions_have_the_asked_length_and_show_the_same_pictures(setup: prepare.Setup) -> None:
    encoder = Encoder(setup.tokenizer)
    lengths = []
    for objects, filler in ((3, 0), (8, 0), (8, 1), (8, 2)):
        place = settings.World(objects, filler)
        scene = world.make_scenes(place, 1, 0, "test")[0]
        assert scene == world.make_scenes(settings.World(), 1, 0, "test")[0]
        told = world.caption(scene, place)
        assert told.count(" is ") >= objects
        lengths.append(len(encoder.plain(world.caption_record(scene, place)).ids))
    assert lengths == sorted(lengths)
    assert len(set(lengths)) == 4


def test_rows_are_those_of_llavas_own_preprocessing(setup: prepare.Setup) -> None:
    from llava import conversation
    from llava.train import train

    options = types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
    encoder, tokenizer = Encoder(setup.tokenizer), setup.tokenizer
    tokenizer.pad_token, tokenizer.model_max_length = tokenizer.unk_token, 2048
    before = conversation.default_conversation
    try:
        for version, encode, stage in (("plain", encoder.plain, "pretrain"), ("v1", encoder.v1, "finetune")):
            conversation.default_conversation = conversation.conv_templates[version]
            for record in setup.records[stage]:
                row = encode(record)
                turns = [dict(part) for part in record["conversations"]]
                found = train.preprocess(train.preprocess_multimodal([turns], options), tokenizer, has_image=True)
                assert found["input_ids"][0].tolist() == row.ids
                assert found["labels"][0].tolist() == row.labels
                assert row.ids.count(IMAGE) == 1
                assert tokenizer.unk_token_id not in row.ids
    finally:
        conversation.default_conversation = before


def test_a_checkpoint_of_llavas_own_training_is_read_as_llava_reads_it(work: Path, setup: prepare.Setup) -> None:
    run = settings.Run(0, settings.Arm("infonce", 0.1), sizes=SIZES)
    checkpoints = real.train(setup, run, work / "llava", study.EVERY)
    assert list(checkpoints) == [study.EVERY, 2 * study.EVERY]
    compared = _logits(setup, checkpoints[study.EVERY])
    assert compared["copy"].shape == compared["llava"].shape
    # the tower is float16 in LLaVA's training on a CPU, and float32 in the known features
    torch.testing.assert_close(compared["copy"], compared["llava"], atol=0.02, rtol=0.02)
    plain = real.train(setup, settings.Run(0, sizes=SIZES), work / "plain", study.EVERY)
    readings = [
        held_out.HeldOut(model.load_llava(setup, folder[study.EVERY]), setup).read(study.EVERY)
        for folder in (plain, checkpoints)
    ]
    assert readings[0] != readings[1] and all(math.isfinite(reading["color_nll"]) for reading in readings)


def _logits(setup: prepare.Setup, checkpoint: Path) -> dict[str, torch.Tensor]:
    """Of one held-out sample: from the checkpoint in stock LLaVA, and from its copy."""
    from llava.mm_utils import process_images

    from llava_vista.tools.demo.heldout_answers import load_model
    from llava_vista.tools.demo.scene_pictures import draw_scene

    row = Encoder(setup.tokenizer).v1(setup.records["breaking"][0])
    _, stock, processor = load_model(checkpoint)
    scene = world.make_scenes(setup.run.world, 1, setup.run.seed, "test", breaking=True)[0]
    assert f"{scene.name}.png" == row.picture
    pixels = process_images([draw_scene(scene)], processor, stock.config)
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=torch.ones_like(ids), images=pixels).logits
        copy = model.load_llava(setup, checkpoint).eval()
        found = copy(**model.make_batch([row], setup.features, copy)).logits
    return {"llava": expected.float(), "copy": found}


def test_the_larger_model_is_what_it_says(work: Path) -> None:
    """Its size, from the configuration alone; then a few steps of an enlarged tiny model with as many image tokens."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = settings.Sizes().enlarged()
    with torch.device("meta"):
        llama = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=400,
                hidden_size=sizes.hidden,
                intermediate_size=2 * sizes.hidden,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
            )
        )
    assert 90e6 < sum(parameter.numel() for parameter in llama.parameters()) < 110e6
    small = replace(SIZES, hidden=8, pretrain_steps=2, finetune_steps=10, batch=2, scenes=2).enlarged()
    run = settings.Run(
        0, settings.Arm("l2", 0.1), settings.SETTINGS["large"].world, replace(small, hidden=32, layers=1)
    )
    result = json.loads(study.execute("large", run, work, work / "results").read_text())
    assert result["device"] == "cpu" and math.isfinite(result["readings"][-1]["color_nll"])
    features = next(iter(prepare.prepare(run, work).features.values()))
    assert len(features) == 1 + (336 // 14) ** 2  # LLaVA-1.5's 576 patches, and the class token that is dropped


def test_pictures_are_given_to_the_tower_as_resizing_would(setup: prepare.Setup) -> None:
    from transformers import CLIPImageProcessor

    from llava_vista.tools.demo.scene_pictures import draw_scene

    as_is = CLIPImageProcessor.from_pretrained(setup.vision_tower)
    assert not as_is.do_resize
    assert not as_is.do_center_crop
    picture = draw_scene(world.make_scenes(settings.World(), 1, 0, "test")[0], SIZES.image_size)
    resized = as_is(picture, do_resize=True, do_center_crop=True)["pixel_values"][0]
    assert (as_is(picture)["pixel_values"][0] == resized).all()


def test_label_sentinels_are_llavas() -> None:
    from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX

    assert (IMAGE, IGNORE) == (IMAGE_TOKEN_INDEX, IGNORE_INDEX)


def test_time_to_look_from_runs_to_the_page(work: Path) -> None:
    words = ["--reduced", "--seeds", "2", "--arms", "baseline", "l2-1", "--work", str(work)]
    assert study.main(words) == 0
    results = work / "results-reduced"
    result = json.loads((results / "main" / "l2-1_seed1.json").read_text())
    assert [value["step"] for value in result["readings"]] == [0, study.EVERY, 2 * study.EVERY]
    assert [value["step"] for value in result["pretrain"]] == [0]
    assert result["readings"] != json.loads((results / "main" / "baseline_seed1.json").read_text())["readings"]
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    assert study.main(words) == 0  # goes on: nothing is done again
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.json")} == before
    page = report.report(results, work / "page")
    assert "- Too few paired seeds for a conclusion." in page and "Runs: baseline 2, l2-1 2." in page
    for figure in ("looking", "margin"):
        assert f"figures/{figure}.png" in page and (work / "page" / "figures" / f"{figure}.png").stat().st_size > 5000
    other = json.loads((results / "main" / "l2-1_seed1.json").read_text())
    (results / "main" / "l2-1_seed1.json").write_text(json.dumps({**other, "base": "another machine's"}))
    with pytest.raises(ValueError, match="seed 1, started from different language models"):
        report.report(results, work / "page")


def test_what_the_losses_are_about_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    embeds, hidden = (torch.randn(3, 7, 5, generator=generator) for _ in range(2))
    kind = torch.tensor([[1, 1, 0, 0, 0, 2, 2], [0, 1, 0, 0, 0, 0, 2], [1, 0, 1, 0, 0, 0, 0]])
    layout = SequenceLayout(kind == 0, kind == 1)
    for method in ("l2", "cosine"):
        found = held_out.alignment_of(embeds, hidden, layout)[method]
        scores = torch.zeros(3, 3, dtype=torch.float64)
        for i in range(3):
            state = hidden[i, (kind[i] == 1).nonzero()[-1, 0]].double()
            for j in range(3):
                text = embeds[j, kind[j] == 0].double()
                for t, x in enumerate(text, start=1):
                    pull = -(state - x).square().mean() if method == "l2" else torch.cosine_similarity(state, x, dim=0)
                    scores[i, j] += t / len(text) * pull / len(text)
        own = scores.diagonal()
        assert found["loss"] == pytest.approx(-float(own.mean()), abs=1e-9)
        assert found["loss"] == pytest.approx(vista_loss(embeds, hidden, layout, VistaConfig(method)).item(), abs=1e-6)
        assert found["margin"] == pytest.approx(float((own - (scores.sum(dim=1) - own) / 2).mean()), abs=1e-9)
        assert found["own_first"] == pytest.approx(float((scores.argmax(1) == torch.arange(3)).double().mean()))


def made_up(factor: float, own_first: float, converges: bool = True) -> dict[int, dict]:
    """Results of eight seeds that look after a multiple of the baseline's steps."""
    jitter = (1.0, 1.02, 0.98, 1.01)

    def reading(step: int, first: float) -> dict:
        values = {"loss": 0.5 - step / 2000, "margin": 0.0, "own_first": first, "constant": 0.1}
        return {"step": step, "color_nll": 0.1, "l2": values, "cosine": values}

    found = {}
    for seed in range(8):
        step = round((100 + 5 * seed) * factor * (jitter[seed % 4] if factor != 1 else 1))
        last = own_first + 0.01 * jitter[seed % 4]
        readings = [reading(0, 0.01), reading(step, last), reading(step + 50, last)]
        found[seed] = {
            "cap": 640, "steps_to_1": step, "steps_to_0.3": step + 50 if converges else None, "base": "",
            "pretrain": [reading(0, 0.01)], "readings": readings,
        }  # fmt: skip
    return found


def test_conclusions_follow_the_results_whichever_way_they_fall() -> None:
    arms = {"baseline": made_up(1.0, 0.01), "l2-0.1": made_up(1.5, 0.01), "cosine-0.1": made_up(1.01, 0.01)}
    found = effects.effects_of(arms)
    slower = found["l2-0.1", "steps_to_1"]
    assert slower.ratio == pytest.approx(1.5, abs=0.02) and slower.low < 1.5 < slower.high
    assert (slower.verdict, found["cosine-0.1", "steps_to_1"].verdict) == ("slower", "")
    time, reason, weight = report.conclusions(arms)
    assert (
        "no arm began to use the image sooner" in time
        and "l2-0.1 (1.50 times the steps to 1.0 nats) began later" in time
    )
    assert "is not about the image" in reason and weight == "Begin with `--vista_weight 0.1`, the lowest of 0.1."
    # made up: nothing in stage 1, and 50 of the last steps' fall after looking
    assert "0% to 0% of their fall comes in stage 1" in (when := report.timing(arms))
    assert "most of it in stage 2, and before the model looks" in when
    side = report.side_settings({"main": arms, "batch32": arms})
    assert "| batch32 | l2-0.1 | 8 | 1.5" in side and "- batch32: Batches of 32 instead of 16." in side
    assert " | 0 and 0 | 0.10 |" in side and effects.end_loss(arms["baseline"][0]) == pytest.approx(0.1)

    arms = {"baseline": made_up(1.0, 0.01), "l2-0.01": made_up(1.001, 0.01), "l2-0.1": made_up(0.7, 0.2)}
    time, reason, weight = report.conclusions(arms)
    assert "l2-0.1 (0.70 times the steps to 1.0 nats) began to use the image sooner" in time and "later" not in time
    assert reason.startswith("What l2-0.1 learned is about the image")
    assert weight == "Begin with `--vista_weight 0.1`, which was faster."

    censored = {"baseline": made_up(1.0, 0.01, converges=False), "l2-1": made_up(1.5, 0.01, converges=False)}
    assert effects.effects_of(censored)["l2-1", "steps_to_0.3"].ratio == 1
    assert "8 of them reach the cap before 0.3 nats" in report.power(censored)


def test_margins_of_every_step(work: Path) -> None:
    """Weight 0 is one training, whatever is observed; the page has the mean of the first and of the last steps."""
    logs = margins.train_seed(settings.Run(0, sizes=SIZES), work)
    observed = [[step["ce_loss"] for step in logs[arm]] for arm in margins.ARMS if arm.weight == 0]
    assert len(observed[0]) == SIZES.finetune_steps and observed[0] == observed[1] == observed[2]
    page = margins.page([logs])
    mean = sum(step["vista_loss"] for step in logs[settings.Arm("l2", 1.0)]) / SIZES.finetune_steps
    assert f"| l2 | 1 | {mean:.3f} -> {mean:.3f} (" in page and page.count("\n| ") == 1 + len(margins.ARMS)


def test_the_readme_says_what_the_results_say() -> None:
    readme = (FOLDER.parents[1] / "README.md").read_text()
    for sentence in report.conclusions(effects.read(study.RESULTS)["main"]):
        assert sentence in readme, sentence
