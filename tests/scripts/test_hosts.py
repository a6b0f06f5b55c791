"""What scripts/hosts says and refuses, without any host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

HOSTS = Path(__file__).parents[2] / "scripts" / "hosts"
RUN = HOSTS / "run.sh"


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(RUN), *words],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )


def test_list_names_all() -> None:
    done = run("--list")
    assert done.returncode == 0
    names = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert names == {
        "LLaVA", "LLaVA-NeXT", "TinyLLaVA_Factory", "Bunny", "MoE-LLaVA", "Video-LLaVA", "ShareGPT4V", "VILA", "CAL",
        "VIRAL", "Open-LLaVA-NeXT", "ViP-LLaVA", "ml-fastvlm", "MobileVLM",
    }  # fmt: skip


def test_bad_calls(tmp_path: Path) -> None:
    for words, message in (
        ([], "run.sh NAME CHECKOUT"),
        (["LLaVA"], "run.sh NAME CHECKOUT"),
        (["LLaVA", str(tmp_path / "nowhere")], "nowhere"),
        (["Nobody", str(tmp_path)], "invalid choice: 'Nobody'"),
    ):
        done = run(*words)
        assert done.returncode != 0
        assert message in done.stderr


def in_scratch(folder: Path, code: str, environment: dict[str, str] | None = None, **wanted: list[str]) -> str:
    """Run Python as a host's process is run."""
    (folder / "sitecustomize.py").write_text((HOSTS / "scratch_site.py").read_text(encoding="utf-8"))
    more = {"PYTHONPATH": str(folder), "HOST_SCRATCH": json.dumps(wanted), **(environment or {})}
    environment = {**os.environ, **more}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=environment)
    return done.stdout + done.stderr


def test_placeholders_may_be_named_but_not_used(tmp_path: Path) -> None:
    code = (
        "from nowhere.ops import Thing\nimport nowhere.deeper as deeper\n"
        "class Mine(Thing): ...\n"
        "print('named', Mine().attribute.more, deeper.Other(1).value)\n"
        "Thing()(1, 2)\n"
    )
    found = in_scratch(tmp_path, code, placeholders=["nowhere"])
    assert found.startswith("named")
    assert "RuntimeError: nowhere.ops is a placeholder in this run" in found
    assert "No module named 'nowhere'" in in_scratch(tmp_path, code)


def test_fixes_act_only_when_asked_for(tmp_path: Path) -> None:
    code = (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int = 1\n"
        "@dataclasses.dataclass\nclass B:\n    a: A = A()\nprint('made', B().a.x)\n"
    )
    assert "made 1" in in_scratch(tmp_path, code, fixes=["dataclass-defaults"])
    if sys.version_info >= (3, 11):
        assert "mutable default" in in_scratch(tmp_path, code)
    seeded = "import torch; print(torch.rand(1).item())"
    assert in_scratch(tmp_path, seeded, fixes=["seed"]) == in_scratch(tmp_path, seeded, fixes=["seed"])


@pytest.fixture
def scripts() -> Iterator[None]:
    sys.path.insert(0, str(HOSTS))
    yield
    sys.path.remove(str(HOSTS))
    for name in ("probe", "results", "scratch_site", "table"):
        sys.modules.pop(name, None)


def recorded(folder: Path, model: str) -> None:
    """A batch of two rows, one with an image, given to a trainer of that model."""
    (folder / "transformers").mkdir()
    (folder / "transformers" / "__init__.py").touch()
    trainer = "class Trainer:\n    def _prepare_inputs(self, inputs):\n        return 'given on', inputs\n"
    (folder / "transformers" / "trainer.py").write_text(trainer)
    (folder / "batches").mkdir()
    code = (
        "import torch\nfrom types import SimpleNamespace\nfrom transformers.trainer import Trainer\n"
        "ids = torch.tensor([[1, 2, 3, 0], [1, IMAGE, 5, 6]])\n"
        "trainer = Trainer()\ntrainer.model = " + model + "\n"
        "batch = {'input_ids': ids, 'labels': ids.clamp(min=-1) * (ids > 4), 'attention_mask': ids != 0}\n"
        "batch['labels'][:, :2] = -100\n"
        "print(trainer._prepare_inputs(batch)[0])\nprint(trainer._prepare_inputs({'nothing': 1})[0])\n"
    ).replace("IMAGE", "9" if "9" in model else "-200")
    told = in_scratch(folder, code, {"HOST_BATCHES": str(folder / "batches")})
    assert told.splitlines() == ["given on", "given on"]


@pytest.mark.parametrize(
    "model", ["None", "SimpleNamespace(tokenizer=SimpleNamespace(media_token_ids={'image': 9}))"], ids=["id", "token"]
)
def test_a_record_is_compared_with_the_batches_of_a_training(tmp_path: Path, model: str, scripts: None) -> None:
    import probe

    recorded(tmp_path, model)
    [sample] = probe.samples_of_training(tmp_path / "batches")
    assert sample == probe.Sample(f"{zlib.crc32(b'[1, 5, 6]'):08x}", 2)
    record = {
        "tokens": 2,
        "information": 0.5,
        "samples": [{"text": sample.text, "tokens": [1, 1], "nats": [0.6, 0.4]}],
    }
    assert probe.check_record(record, [sample]).startswith("2 tokens of 1 samples, +0.5000")
    for wrong in ({"text": "00000000"}, {"tokens": [1, 2]}, {"nats": [0.0, 0.0]}, {"nats": [float("nan"), 1.0]}):
        with pytest.raises(probe.Failed):
            probe.check_record({**record, "samples": [{**record["samples"][0], **wrong}]}, [sample])
    with pytest.raises(probe.Failed):
        probe.check_record(record, [sample, sample])
    with pytest.raises(probe.Failed):
        probe.check_record(record, [])


def test_results_say_what_failed_and_what_was_not_run(scripts: None) -> None:
    import results

    run = {
        "host": "LLaVA",
        "variant": None,
        "commit": "abc",
        "transformers": "4.37.2",
        "entry": "train.py",
        "fixes": [],
    }
    terms = {"vista_loss": 0.5}
    good = {
        **run, "training": {"first": terms, "last": terms, "keys": 64}, "probe": "323 tokens",
        "kit": ["LlavaLlamaForCausalLM (adapter llava): 12 checks passed", "LlavaMptForCausalLM: fails | already"],
    }  # fmt: skip
    bad = {**run, "host": "Bunny", "error": "weight 0:\nloss differs"}
    lines = results.table([good, bad]).splitlines()
    assert lines[2] == "| Bunny abc | 4.37.2 | train.py | **failed**: weight 0: loss differs |  |  |"
    assert lines[3] == ("| LLaVA abc | 4.37.2 | train.py | 0.5000 -> 0.5000; 64 | `llava`: LlavaLlama | 323 tokens |")
    assert "- LLaVA: LlavaMptForCausalLM: fails / already" in lines
    assert any(line.startswith("Not run:") and "VILA" in line and "Bunny" not in line for line in lines)
