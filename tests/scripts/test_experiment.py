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

import analysis
import execute
import looking
import looking_report
import model
import prepare
import real
import report
import settings
import studies
import study
import world
from encode import IGNORE, IMAGE, Encoder

from llava_vista import SequenceLayout, VistaConfig, vista_loss

pytestmark = pytest.mark.environments("llava")

SIZES = study.REDUCED


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


def test_both_paths_carry_the_arm(work: Path, setup: prepare.Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run of each path: results are complete, the real one is a copy of what LLaVA saved, and nothing is redone."""
    arm = settings.Arm("infonce", 0.1, stage="finetune")
    kept: dict[str, torch.Tensor] = {}

    def keep(setup: prepare.Setup, checkpoint: Path) -> torch.nn.Module:
        kept.update(_llava_logits(setup, checkpoint))
        return model.load_llava(setup, checkpoint)

    monkeypatch.setattr(real, "load_llava", keep)
    records = {}
    for path in settings.PATHS:
        run = settings.Run(0, arm, sizes=SIZES, path=path)
        assert settings.read_run(run.record()) == run
        file = execute.execute(run, work, work / "results")
        records[path] = json.loads(file.read_text())
        stamp = file.stat().st_mtime_ns
        assert execute.execute(run, work, work / "results").stat().st_mtime_ns == stamp
    for record in records.values():
        assert record["split"] == "test"
        assert not record["log"]["pretrain"]["vista"]
        assert record["log"]["finetune"]["vista"]
        for measure in analysis.MEASURES:
            assert math.isfinite(measure.read(record)), measure.key
    assert kept["copy"].shape == kept["llava"].shape
    # the tower is float16 in LLaVA's training on a CPU, and float32 in the known features
    torch.testing.assert_close(kept["copy"], kept["llava"], atol=0.02, rtol=0.02)


def _llava_logits(setup: prepare.Setup, checkpoint: Path) -> dict[str, torch.Tensor]:
    """Of one test sample: from the checkpoint in stock LLaVA, and from its copy."""
    from llava.mm_utils import process_images

    from llava_vista.tools.demo.heldout_answers import load_model
    from llava_vista.tools.demo.scene_pictures import draw_scene

    record = setup.records["test/breaking/questions"][0]
    row = Encoder(setup.tokenizer).v1(record)
    _, stock, processor = load_model(checkpoint)
    scene = world.make_scenes(setup.run.world, 1, setup.run.seed, "test", breaking=True)[0]
    assert f"{scene.name}.png" == row.picture
    pixels = process_images([draw_scene(scene)], processor, stock.config)
    ids = torch.tensor([row.ids])
    with torch.no_grad():
        expected = stock(input_ids=ids, attention_mask=torch.ones_like(ids), images=pixels).logits
        found = model.load_llava(setup, checkpoint).eval()(**model.make_batch([row], setup.features)).logits
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
    small = replace(SIZES, hidden=8, pretrain_steps=2, finetune_steps=2, batch=2, scenes=2)
    run = next(run for run in studies.large(1, small, dict.fromkeys(settings.METHODS, 0.1)) if run.arm.method == "l2")
    record = json.loads(execute.execute(run, work, work / "results").read_text())
    assert record["device"] == "cpu"
    assert all(math.isfinite(measure.read(record)) for measure in analysis.MEASURES)
    features = next(iter(prepare.prepare(run, work).features.values()))
    assert len(features) == 1 + (336 // 14) ** 2  # LLaVA-1.5's 576 patches, and the class token that is dropped


def test_the_same_grid_for_every_estimator_and_no_reported_seed_in_the_choice() -> None:
    runs = studies.choose(2, SIZES)
    grids = {m: sorted(r.arm.weight for r in runs if r.arm.method == m) for m in settings.METHODS}
    assert len({tuple(grid) for grid in grids.values()}) == 1
    assert all(run.split == "validation" for run in runs)
    weights = dict.fromkeys(settings.METHODS, 0.1)
    for make in studies.STUDIES.values():
        made = make(3, SIZES, weights)
        assert all(run.split == "test" for run in made)
        assert len({run.name for run in made}) == len(made)


def test_study_goes_on_where_it_stopped_and_the_report_is_written(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """With made-up results in the place of training."""
    options = ["--reduced", "--seeds", "2", "--work", str(work), "--results", str(work / "made_up")]
    real_run = settings.Run(0, settings.Arm("infonce", 0.1, stage="finetune"), sizes=SIZES)
    template = json.loads(execute.execute(real_run, work, work / "results").read_text())
    done: list[str] = []

    def made_up(run: settings.Run, work: Path, results: Path, device: str = "cpu") -> Path:
        if len(done) == 5 and "stopped" not in done:
            done.append("stopped")
            raise KeyboardInterrupt
        path = execute.result_path(results, run)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = json.loads(json.dumps(template))
        record["run"], record["split"] = run.record(), run.split
        record["measures"]["breaking"]["captions"]["color_nll"] = 1 + run.seed % 7 / 10 - run.arm.weight / 10
        path.write_text(json.dumps(record))
        done.append(run.name)
        return path

    monkeypatch.setattr(study, "execute", made_up)
    monkeypatch.setattr(study, "ProcessPoolExecutor", _Here)
    with pytest.raises(KeyboardInterrupt):
        study.main(options)
    assert study.main([*options, "--sweep"]) == 0
    names = [name for name in done if name != "stopped"]
    assert len(names) == len(set(names))
    assert "chosen on validation scenes: l2 1, cosine 1, infonce 1" in capsys.readouterr().out
    assert report.main([*options, "--sweep"]) == 0
    text = (work / "RESULTS.md").read_text()
    for figure in ("weights", "position", "training", "length"):
        assert f"figures/{figure}.png" in text
        assert (work / "figures" / f"{figure}.png").stat().st_size > 5000
    assert "-0.100 [-0.100, -0.100], p < 0.001" in text
    assert "**Recommended by these results:" in text
    assert "**worse**" not in text
    assert "that tell of the same objects (fast path, 2 paired seeds)" in text
    assert "+0.000 [+0.000, +0.000] nats, and the arms' change less the baseline's: l2 +0.000 [" in text
    assert "Also run on test scenes" not in text
    assert "larger model:" not in text
    assert study.main([*options, "--studies", "large"]) == 0
    assert report.main([*options, "--sweep"]) == 0
    text = (work / "RESULTS.md").read_text()
    assert "## Headline on the larger model: 2 paired seeds" in text
    assert "Width 256, 4 layers; 336 pixels, 576 patches;" in text
    assert "| larger model | l2-1 | **better** |" in text
    made_up(settings.Run(0, settings.Arm("l2", 0.1), sizes=SIZES), work, work / "made_up")  # of an earlier choice
    assert report.main([*options, "--sweep"]) == 0
    assert "| l2-0.1, fast path | 1 | 1.000 | -0.010 |" in (work / "RESULTS.md").read_text()


def test_report_tells_pre_trained_parts_of_several_machines_apart() -> None:
    arms = settings.Arm(), settings.Arm("l2", 0.1)
    results = {settings.Run(seed, arm, sizes=SIZES): {"base": f"machine {seed}"} for seed in (0, 1) for arm in arms}
    results[settings.Run(0, world=settings.World(prior=0.5), sizes=SIZES)] = {"base": "another prior's"}
    results[settings.Run(0, sizes=SIZES.enlarged())] = {"base": "the larger model's"}
    assert report.bases_of(results, SIZES) == 2
    results[settings.Run(0, arms[1], sizes=SIZES)] = {"base": "machine 1"}
    with pytest.raises(ValueError, match="seed0 started from different language models"):
        report.bases_of(results, SIZES)


def test_pictures_are_given_to_the_tower_as_resizing_would(setup: prepare.Setup) -> None:
    from transformers import CLIPImageProcessor

    from llava_vista.tools.demo.scene_pictures import draw_scene

    as_is = CLIPImageProcessor.from_pretrained(setup.vision_tower)
    assert not as_is.do_resize
    assert not as_is.do_center_crop
    picture = draw_scene(world.make_scenes(settings.World(), 1, 0, "test")[0], SIZES.image_size)
    resized = as_is(picture, do_resize=True, do_center_crop=True)["pixel_values"][0]
    assert (as_is(picture)["pixel_values"][0] == resized).all()


class _Here:
    """A pool that works in this process."""

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *args: object) -> None:
        pass

    def shutdown(self, **options: object) -> None:
        pass

    def submit(self, function, *args):
        from concurrent.futures import Future

        job: Future = Future()
        job.set_result(function(*args))
        return job


def test_t_test_against_tables() -> None:
    """Student's t at its tabulated 95% quantiles."""
    for freedom, quantile in ((2, 4.303), (4, 2.776), (9, 2.262)):
        assert abs(analysis._student(quantile, freedom) - 0.05) < 1e-4
    assert analysis.t_test([0.0, 0.0, 0.0]) == 1.0
    d = analysis.difference([1.1, 2.2, 3.0], [1.0, 2.0, 3.1])
    assert d.seeds == 3
    assert abs(d.baseline - 6.1 / 3) < 1e-12
    assert d.low < d.mean < d.high


def test_label_sentinels_are_llavas() -> None:
    from llava.constants import IGNORE_INDEX, IMAGE_TOKEN_INDEX

    assert (IMAGE, IGNORE) == (IMAGE_TOKEN_INDEX, IGNORE_INDEX)


def test_time_to_look_from_runs_to_the_page(work: Path) -> None:
    words = ["--reduced", "--seeds", "2", "--arms", "baseline", "l2-1", "--work", str(work)]
    assert looking.main(words) == 0
    results = work / "looking-reduced"
    result = json.loads((results / "main" / "l2-1_seed1.json").read_text())
    assert [value["step"] for value in result["readings"]] == [0, looking.EVERY, 2 * looking.EVERY]
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*.json")}
    assert looking.main(words) == 0  # goes on: nothing is done again
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*.json")} == before
    page = "\n".join(looking_report.report(results, work / "page"))
    assert "Done: 0 whole seeds" in page and "too few seeds" in page
    assert (work / "page" / "figures" / "looking.png").stat().st_size > 5000


def test_what_the_losses_are_about_equals_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    embeds, hidden = (torch.randn(3, 7, 5, generator=generator) for _ in range(2))
    kind = torch.tensor([[1, 1, 0, 0, 0, 2, 2], [0, 1, 0, 0, 0, 0, 2], [1, 0, 1, 0, 0, 0, 0]])
    layout = SequenceLayout(kind == 0, kind == 1)
    for method in ("l2", "cosine"):
        found = looking.alignment_of(embeds, hidden, layout)[method]
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


def test_an_arm_that_looks_later_is_told_by_its_ratio() -> None:
    def runs(factor: float) -> dict:
        return {
            seed: {"cap": 640, "steps_to_1": round((100 + 5 * seed) * factor), "steps_to_0.3": None}
            for seed in range(8)
        }

    arms = {"baseline": runs(1.0), "l2-1": runs(1.5)}
    found = looking_report.effect(arms, "l2-1", "steps_to_1")
    assert found is not None and found.ratio == pytest.approx(1.5, abs=0.02) and found.low < 1.5 < found.high
    assert found.verdict(0.01) == "**slower**" and found.verdict(0.2).startswith("no difference shown")
    censored = looking_report.effect(arms, "l2-1", "steps_to_0.3")
    assert censored is not None and censored.censored == 16 and censored.ratio == 1
