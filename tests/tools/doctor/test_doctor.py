"""The doctor on made-up checkouts, checkpoints and environments.

Runs with and without a host installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_vista import cli
from llava_vista.adapters import all_adapters
from llava_vista.tools.doctor import environment
from llava_vista.tools.doctor.checkout import inspect_checkout
from llava_vista.tools.doctor.examine import TargetError, examine
from llava_vista.tools.doctor.report import WRONG, Report
from llava_vista.tools.doctor.troubles import TROUBLES, Situation, release
from llava_vista.tools.kit.host_source import find_class, parse, unbound_uses

pytestmark = pytest.mark.environments("latest")

MERGE = "prepare_inputs_labels_for_multimodal"
# Importing any of it would fail, and leave a trace.
TRAP = "import sys\nsys.modules['the_doctor_imported_me'] = sys\nraise RuntimeError('imported')\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def host_files(**changed: str) -> dict[str, str]:
    """A tiny host in the shape of LLaVA."""
    return {
        "llava/__init__.py": TRAP,
        "llava/model/llava_arch.py": TRAP
        + f"""
class LlavaMetaForCausalLM(ABC):
    def {MERGE}(self, input_ids, position_ids, attention_mask, past_key_values, labels, images, image_sizes=None):
        if images is None:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        return None, position_ids, attention_mask, past_key_values, embeds, labels
""",
        "llava/model/language_model/llava_llama.py": TRAP
        + """
class LlavaLlamaForCausalLM(LlamaForCausalLM, LlavaMetaForCausalLM):
    def forward(self, input_ids, labels, images): ...
class Finer(LlavaLlamaForCausalLM, LlavaMetaForCausalLM):
    def forward(self, input_ids, labels, images): ...
""",
        "llava/train/llava_trainer.py": TRAP + "class LLaVATrainer(transformers.Trainer): ...\n",
        "llava/train/train.py": TRAP + "def train():\n    parser = transformers.HfArgumentParser((A, B))\n",
        **changed,
    }


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing is wrong, whatever this one is like; no interpreters are started."""
    versions = {"python": "3.10.4", "torch": "2.1.2", "transformers": "4.37.2"}
    monkeypatch.setattr(environment, "found_versions", lambda: versions)
    monkeypatch.setattr(
        environment, "imported_at_start", lambda value, *words: (["llava_vista.hooks"] if value or words else [], "")
    )


@pytest.fixture
def doctor(calm: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*arguments: object) -> tuple[int, str]:
        code = cli.main(["doctor", *map(str, arguments)])
        return code, capsys.readouterr().out

    return run


def wrong_lines(report: Report) -> list[str]:
    return [f"{line.label}: {line.text}" for section in report.sections for line in section.lines if line.mark == WRONG]


# --- checkouts ---


def test_checkout_of_a_known_host(tmp_path, doctor):
    code, out = doctor(write(tmp_path / "LLaVA", host_files()))
    out = " ".join(out.split())
    assert code == 0 and "Nothing is wrong." in out
    assert "llava for LlavaLlamaForCausalLM (llava/model/language_model/llava_llama.py)" in out
    assert f"LlavaMetaForCausalLM.{MERGE}(self, input_ids, position_ids, attention_mask, past_key_values, " in out
    assert "image_sizes=None) (llava/model/llava_arch.py:" in out
    assert "LLaVATrainer (llava/train/llava_trainer.py:4)" in out
    assert "llava/train/train.py:5 with HfArgumentParser" in out
    assert "the_doctor_imported_me" not in sys.modules


@pytest.mark.parametrize(("prefix", "named"), [("src/", "."), ("", "llava"), ("", ".")])
def test_checkout_layouts(tmp_path, prefix, named):
    write(tmp_path, {prefix + name: text for name, text in host_files().items()})
    checkout = inspect_checkout(tmp_path / named, all_adapters())
    assert [item.qualified.rpartition(".")[2] for item in checkout.recognised] == ["LlavaLlamaForCausalLM"]
    assert checkout.packages == {"llava"}
    assert not checkout.unknown  # Finer is a subclass of a known class: adapters take those too


def test_repo_inspection_imports_no_host(tmp_path):
    """In a process of its own: neither the checkout nor transformers nor an installed llava is imported."""
    write(tmp_path, host_files())
    code = (
        "import sys\n"
        "from llava_vista.cli import main\n"
        "main(['doctor', sys.argv[1]])\n"
        "heavy = {'transformers', 'llava', 'the_doctor_imported_me', 'deepspeed', 'peft'}\n"
        "print('imported', sorted(heavy & {name.split('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("imported []\n")
    assert "llava for LlavaLlamaForCausalLM" in done.stdout


def test_another_project(tmp_path, doctor):
    write(tmp_path, {"flask_app/views.py": "class View: ...\n", "broken.py": "print 'Trainer'\n"})
    code, out = doctor(tmp_path)
    assert code == 1
    assert "another project" in out and "llava.model.language_model.llava_llama.LlavaLlamaForCausalLM" in out


def test_empty_directory(tmp_path, doctor):
    code, out = doctor(tmp_path)
    assert code == 1 and "neither a checkpoint" in out


def test_unknown_host_with_a_merge_method(tmp_path, doctor):
    write(
        tmp_path,
        {
            "newllava/model.py": f"class NewLlava(Model):\n"
            f"    def forward(self): ...\n"
            f"    def {MERGE}(self, input_ids, attention_mask, labels): ...\n"
        },
    )
    code, out = doctor(tmp_path)
    assert code == 1 and "none knows the models of this host" in out and "NewLlava (newllava/model.py)" in out


def test_same_names_elsewhere_are_no_adapter(tmp_path):
    """The whole qualified name counts, as for live models."""
    files = {name.replace("llava/", "other/", 1): text for name, text in host_files().items()}
    assert not inspect_checkout(write(tmp_path, files), all_adapters()).recognised


@pytest.mark.parametrize(
    ("signature", "returns", "complaint"),
    [
        ("self, ids, attention_mask, labels", "a, b, c, d, e, f", "has no parameter input_ids"),
        ("self, input_ids, attention_mask, labels", "a, b", "returns 2 values"),
    ],
)
def test_merge_method_that_is_not_understood(tmp_path, calm, signature, returns, complaint):
    source = f"class LlavaMetaForCausalLM:\n    def {MERGE}({signature}):\n        return {returns}\n"
    write(tmp_path, host_files(**{"llava/model/llava_arch.py": source}))
    [line] = wrong_lines(examine(str(tmp_path)))
    assert complaint in line


def test_class_without_its_merge_method(tmp_path, calm):
    write(tmp_path, host_files(**{"llava/model/llava_arch.py": "class LlavaMetaForCausalLM: ...\n"}))
    [line] = wrong_lines(examine(str(tmp_path)))
    assert f"{MERGE}, which adapter llava goes by, is not defined" in line


def test_trainer_with_missing_imports(tmp_path, doctor):
    trainer = "class LLaVATrainer(Trainer):\n    def _inner_training_loop(self):\n        DebugOption.UNDERFLOW\n"
    write(tmp_path, host_files(**{"llava/train/llava_trainer.py": trainer}))
    code, out = doctor(tmp_path)
    assert code == 1 and "DebugOption" in out
    fixed = "from transformers.debug_utils import DebugOption\n" + trainer
    write(tmp_path, {"llava/train/llava_trainer.py": fixed})
    assert doctor(tmp_path)[0] == 0


def test_checkout_needs_an_older_transformers(tmp_path, doctor, monkeypatch):
    monkeypatch.setattr(environment, "found_versions", lambda: {"transformers": "5.23.0"})
    code, out = doctor(write(tmp_path, host_files()))
    assert code == 1 and "4.37.2" in out


def test_unbound_uses(tmp_path):
    def uses(source: str) -> list[int]:
        tree = parse(write(tmp_path, {"a.py": source}) / "a.py")
        assert tree is not None
        return unbound_uses(tree, "Name")

    assert uses("x = 1\nprint(Name.y)\n") == [2]
    for bound in ("from a import Name", "import a as Name", "from a import *", "Name = 1", "class Name: ..."):
        assert uses(f"{bound}\nprint(Name)\n") == []


def test_find_class(tmp_path):
    write(
        tmp_path,
        {"p/a.py": "if True:\n    class A: ...\n", "p/b/__init__.py": "class B: ...\n", "q.py": "class Q: ..."},
    )
    assert find_class([tmp_path / "p"], "p.a.A") == tmp_path / "p/a.py"
    assert find_class([tmp_path / "p"], "p.b.B") == tmp_path / "p/b/__init__.py"
    assert find_class([tmp_path / "q"], "q.Q") == tmp_path / "q.py"
    assert find_class([tmp_path / "p"], "p.a.B") is None


# --- checkpoints ---


@pytest.mark.parametrize(
    ("config", "code", "expected"),
    [
        (
            {
                "architectures": ["LlavaLlamaForCausalLM"],
                "model_type": "llava_llama",
                "mm_vision_tower": "openai/clip-vit-large-patch14-336",
            },
            0,
            "llava, if the class is llava.model.language_model.llava_llama.LlavaLlamaForCausalLM",
        ),
        ({"architectures": ["LlavaMptForCausalLM"], "model_type": "llava_mpt"}, 1, "broken upstream"),
        (
            {"architectures": ["NovelVisionModel"], "model_type": "novel", "vision_config": {}},
            1,
            "LlavaLlamaForCausalLM",
        ),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, 0, "a text-only language model"),
        ({"model_type": "llava_llama", "mm_hidden_size": 1024}, 1, "a class that is not named"),
    ],
)
def test_checkpoint(tmp_path, doctor, config, code, expected):
    write(tmp_path, {"config.json": json.dumps(config)})
    found, out = doctor(tmp_path)
    assert found == code, out
    assert expected in " ".join(out.split())
    assert config["model_type"] in out
    assert config.get("mm_vision_tower", "none named") in out
    assert doctor(tmp_path / "config.json")[0] == code


@pytest.mark.parametrize("content", ["{not json", "[1]", ""])
def test_broken_checkpoint(tmp_path, doctor, content):
    code, out = doctor(write(tmp_path, {"config.json": content}))
    assert code == 1 and "cannot be read" in out


def test_config_json_of_something_else(tmp_path, doctor):
    """A checkout may have a config.json of its own."""
    code, out = doctor(write(tmp_path, host_files(**{"config.json": '{"port": 80}'})))
    assert code == 0 and "LLaVATrainer" in out


@pytest.mark.parametrize("name", ["nothing-here", "some-org/some-model"])
def test_no_such_target(capsys, name):
    assert cli.main(["doctor", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{name} does not exist" in error


def test_target_is_a_file(tmp_path):
    write(tmp_path, {"train.py": ""})
    with pytest.raises(TargetError, match=r"is a file; a directory was expected"):
        examine(str(tmp_path / "train.py"))


# --- environment ---


def test_this_environment(capsys):
    """The real thing; whatever this environment is like, the exit code says what the report says."""
    code = cli.main(["doctor"])
    out = capsys.readouterr().out
    assert code == int("\n  !!" in out)
    for expected in ("Versions", "python", "torch", "Start-up hook", "LLAVA_VISTA=1", "Installed hosts", "llava"):
        assert expected in out
    assert out.isascii()


def test_dead_hook(doctor, monkeypatch):
    monkeypatch.setattr(environment, "imported_at_start", lambda value, *words: ([], "ImportError: gone"))
    monkeypatch.setattr(environment, "find_pth", lambda: [])
    code, out = doctor()
    assert code == 1
    assert "python -m llava_vista SCRIPT" in out and "install()" in out and "ImportError: gone" in out


def test_hook_that_is_always_on(doctor, monkeypatch):
    monkeypatch.setattr(environment, "imported_at_start", lambda value, *words: (["llava_vista.hooks"], ""))
    code, out = doctor()
    assert code == 1 and "nothing should be" in out


def test_fresh_interpreters_do_not_inherit_the_variable(monkeypatch):
    monkeypatch.setenv("LLAVA_VISTA", "1")
    assert environment.imported_at_start(None) == ([], "")


@pytest.mark.parametrize(
    ("value", "code", "expected"),
    [
        ("1", 0, "method l2"),
        ("method=cosine,weight=0.5", 0, "weight 0.5"),
        ("0", 0, "switches VISTA off"),
        ("", 0, "as if not set"),
        ("method=nonsense", 1, "unknown VISTA method 'nonsense'; known: cosine, infonce, l2"),
        ("wieght=1", 1, "unknown VISTA option 'wieght'"),
        ("perhaps", 1, "must be true or false"),
    ],
)
def test_what_the_variable_resolves_to(doctor, monkeypatch, value, code, expected):
    monkeypatch.setenv("LLAVA_VISTA", value)
    found, out = doctor()
    assert found == code
    assert expected in " ".join(out.split())


def test_installed_host_is_found_without_importing_it(tmp_path, doctor, monkeypatch):
    host = write(tmp_path, host_files())
    monkeypatch.setattr("llava_vista.tools.doctor.environment.package_folders", lambda name: [host / name])
    code, out = doctor()
    assert code == 0 and "llava.model.language_model.llava_llama.LlavaLlamaForCausalLM" in out
    assert "llava_mistral.LlavaMistralForCausalLM is not in this version" in " ".join(out.split())


def test_without_torch(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["doctor", str(tmp_path)]) == 1
    assert "torch cannot be imported" in capsys.readouterr().out


# --- known trouble ---


def labels(situation: Situation) -> set[str]:
    return {trouble.label for trouble in TROUBLES if trouble.when(situation)}


def test_release():
    assert release("2.13.0+cpu") == (2, 13, 0)
    assert release("5.0.0.dev0") == (5, 0, 0)
    assert release("0.9") < release("0.10")
    assert release("unknown") == ()


@pytest.mark.parametrize(
    ("versions", "label"),
    [
        ({"deepspeed": "0.19.8", "transformers": "4.37.2"}, "deepspeed"),
        ({"accelerate": "0.21.0"}, "accelerate"),
        ({"peft": "0.10.0"}, "peft"),
        ({"torch": "1.13.1"}, "torch"),
        ({"transformers": "4.31.0"}, "transformers"),
        ({"transformers": "4.40.2", "llava-torch": "1.2.2.post1"}, "transformers"),
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, "torchvision"),
    ],
)
def test_troubles_with_versions(versions, label):
    assert labels(Situation(versions, cpu_build=True)) == {label}


def test_no_trouble():
    good = {"python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "4.37.2", "accelerate": "0.34.2"}
    good |= {"peft": "0.21.2", "llava-torch": "1.2.2.post1", "deepspeed": "0.15.4"}
    assert labels(Situation(good, hosts=frozenset({"llava"}))) == set()
    assert labels(Situation({})) == set()
    assert labels(Situation(good, cpu_build=True, hosts=frozenset({"llava"}))) == {"deepspeed"}  # saving
