"""The demo's pieces, and the demo itself in its quick form."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from runs import environment

from llava_vista.cli import build_parser, main
from llava_vista.tools.demo.heldout_answers import load_records, majority_answers, score
from llava_vista.tools.demo.scene_dataset import DataSizes, write_data
from llava_vista.tools.demo.scenes import ATTRIBUTE_KINDS, caption, make_scenes, questions
from llava_vista.tools.demo.tiny_checkpoint import build_tiny_llava

pytestmark = pytest.mark.environments("llava")


def test_scenes_follow_from_the_seed() -> None:
    assert make_scenes(20, 3) == make_scenes(20, 3)
    assert make_scenes(20, 3) != make_scenes(20, 4)


@pytest.mark.parametrize("scene", make_scenes(30, 1), ids=lambda scene: scene.name)
def test_answers_are_true_of_the_scene(scene) -> None:
    for question in questions(scene):
        words = question.answer.rstrip(".").split()
        if question.kind == "what_at":
            place = question.text.removeprefix("What is in the ").rstrip("?")
            assert [thing.name for thing in scene.objects if thing.place == place] == [" ".join(words[-2:])]
        elif question.kind == "color_of":
            shape = question.text.removeprefix("What color is the ").rstrip("?")
            assert [thing.color for thing in scene.objects if thing.shape == shape] == [words[-1]]
        elif question.kind == "shape_of":
            color = question.text.split()[4]
            assert [thing.shape for thing in scene.objects if thing.color == color] == [words[-1]]


def test_captions_name_every_object() -> None:
    for scene in make_scenes(20):
        assert all(f"In the {thing.place} there is a {thing.name}." in caption(scene) for thing in scene.objects)
        assert caption(scene).count("there is") == len(scene.objects)


def test_labels_are_real_in_llavas_own_preprocessing(tmp_path, capsys) -> None:
    """No <unk> in the language, no mismatch, and every sample supervises its answers."""
    import types

    from llava import conversation
    from llava.train import train
    from transformers import AutoTokenizer

    scenes = make_scenes(40)
    paths = build_tiny_llava(tmp_path, texts=[caption(scene) for scene in scenes], hidden_size=32, heads=2, layers=1)
    sizes = DataSizes(pretrain_scenes=12, finetune_scenes=12, text_only=4, heldout_questions=4)
    data = write_data(tmp_path / "data", sizes, seed=0, image_size=96)
    tokenizer = AutoTokenizer.from_pretrained(paths.language_model, use_fast=False, model_max_length=2048)
    tokenizer.pad_token = tokenizer.unk_token
    options = types.SimpleNamespace(is_multimodal=True, mm_use_im_start_end=False)
    before = conversation.default_conversation
    try:
        for version, path in (("plain", data.pretrain), ("v1", data.finetune)):
            conversation.default_conversation = conversation.conv_templates[version]
            for record in load_records(path):
                turns = train.preprocess_multimodal([record["conversations"]], options)
                ids = train.preprocess(turns, tokenizer, has_image="image" in record)
                assert (ids["labels"][0] >= 0).sum() > 3
                assert tokenizer.unk_token_id not in ids["input_ids"][0]
    finally:
        conversation.default_conversation = before
    assert "mismatch" not in capsys.readouterr().out
    heldout = load_records(data.heldout)
    assert {record["kind"] for record in heldout} <= set(ATTRIBUTE_KINDS)
    assert score(heldout, [record["answer"] for record in heldout])[0] == 1
    assert len(majority_answers(load_records(data.finetune), heldout)) == len(heldout)


def test_demo_quick(tmp_path) -> None:
    """`llava-vista demo --quick`, as a user runs it."""
    output = tmp_path / "demo"
    result = subprocess.run(
        [sys.executable, "-m", "llava_vista.cli", "demo", "--quick", "--output", str(output), "--method", "cosine"],
        capture_output=True, text=True, env=environment(), timeout=400,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "+ VISTA cosine" in result.stdout
    results = json.loads((output / "results.json").read_text())
    baseline, vista = results["arms"]
    for arm in (baseline, vista):
        assert arm["stages"]["finetune"]["vista_loss_last"] is not None
        assert arm["stages"]["pretrain"]["ce_last"] > 0
        assert all(None not in values for values in arm["about_image"].values())
    assert (output / "curves.png").stat().st_size > 10_000
    assert "Baseline against VISTA: trainings (runs per arm: 1)." in result.stdout
    assert "Nothing that is recorded differs but VISTA." in (output / "report.html").read_text()
    records = [json.loads((output / arm / "finetune" / "vista.json").read_text()) for arm in ("baseline", "vista")]
    assert [record["config"]["weight"] for record in records] == [0.0, 1.0]
    assert [record["config"]["method"] for record in records] == ["cosine", "cosine"]
    # the commands at the end are complete: nothing but VISTA differs between the arms
    (compare,) = re.findall(r"^Compare  llava-vista (.*)$", result.stdout, re.MULTILINE)
    assert main(shlex.split(compare)) == 0
    (probe,) = re.findall(r"^Probe    llava-vista (.*)$", result.stdout, re.MULTILINE)
    arguments = build_parser("probe").parse_args(shlex.split(probe))
    assert Path(arguments.data).is_file()
    assert Path(arguments.images).is_dir()
    assert main(["demo", "--quick", "--output", str(output)]) == 2  # an earlier demo is not trained into


def test_a_wrong_option_is_an_error_before_anything_is_made(tmp_path, capsys) -> None:
    for option in (["--method", "cos"], ["--weight", "-1"]):
        assert main(["demo", "--output", str(tmp_path / "demo"), *option]) == 2
        assert option[1].lstrip("-") in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_demo_leaves_other_folders_alone(tmp_path, capsys) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    assert main(["demo", "--output", str(tmp_path / "thesis.tex")]) == 2
    assert "is a file; a folder" in capsys.readouterr().err
    assert main(["demo", "--output", str(tmp_path), "--overwrite"]) == 2
    assert "was not made by the demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()
