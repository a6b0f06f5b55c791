"""The doctor on trees in the shape of hosts, of forks of them, and of projects that merely look like one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from host_trees import HOSTS, MERGE, S6, TRAP, files_of, host, write

from llava_vista.adapters import all_adapters
from llava_vista.tools.doctor import checkout, environment, targets
from llava_vista.tools.doctor.checkout import Checkout
from llava_vista.tools.doctor.examination import examine

pytestmark = pytest.mark.environments("latest")

LLAVA = files_of("LLaVA")
LLAMA_FILE = "llava/model/language_model/llava_llama.py"


def inspect(folder: Path) -> Checkout:
    return Checkout(folder, all_adapters())


def wrong_lines(*targets: Path) -> list[str]:
    return [f"{line.label}: {line.text}" for line in examine([str(target) for target in targets]).problems]


@pytest.mark.parametrize("name", HOSTS)
def test_each_host_gets_its_adapter(tmp_path, doctor, name):
    adapter, model_file, model, method = HOSTS[name]
    write(tmp_path, files_of(name))
    found = inspect(tmp_path)
    assert [(item.adapter_name, item.name, item.problem) for item in found.models] == [(adapter, model, "")]
    code, out = doctor(tmp_path)
    assert code == 0 and out.startswith(f"Nothing is wrong: adapter {adapter} for {model}.")
    assert f"ok adapter {adapter} for {model} ({model_file})" in out
    package = model_file.partition("/")[0]
    assert f"Meta.{method[0]} ({package}/model/arch.py:5)" in out
    assert f"OwnTrainer ({package}/train/trainer.py:4)" in out
    assert f"{package}/train/train.py:5 with HfArgumentParser" in out
    assert "a_host_was_imported" not in sys.modules


def test_no_host_is_imported(tmp_path):
    """In a process of its own: neither the checkout nor transformers nor an installed host."""
    for name in ("VILA", "TinyLLaVA_Factory"):
        write(tmp_path, files_of(name))
    code = (
        "import sys\nfrom llava_vista.cli import main\nmain(['doctor', sys.argv[1]])\n"
        "heavy = {'transformers', 'llava', 'tinyllava', 'a_host_was_imported', 'deepspeed', 'peft'}\n"
        "print('imported', sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.stdout.endswith("imported []\n"), done.stderr
    assert "vila for LlavaLlamaModel" in done.stdout


@pytest.mark.parametrize(("prefix", "named"), [("src/", "."), ("", "llava"), ("", ".")])
def test_layouts_of_folders(tmp_path, prefix, named):
    write(tmp_path, {prefix + name: text for name, text in LLAVA.items()})
    found = inspect(tmp_path / named)
    assert [item.cls.qualified for item in found.models] == [
        "llava.model.language_model.llava_llama.LlavaLlamaForCausalLM"
    ]
    assert found.packages == {"llava"}


def test_config_json_at_the_top_of_a_checkout(tmp_path, doctor):
    """VIRAL has one of a checkpoint; others have one of their own."""
    for content in ('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}', '{"port": 80}'):
        write(tmp_path, files_of("VIRAL", **{"config.json": content}))
        code, out = doctor(tmp_path)
        assert code == 0 and "adapter llava for LlavaQwen2ForCausalLM" in out


def test_subclasses_of_known_classes_are_recognised(tmp_path):
    """Also those whose base is imported from an installed package."""
    bases = {
        "from .llava_llama import LlavaLlamaForCausalLM as Base": "llava",
        "from transformers import LlavaForConditionalGeneration as Base": "transformers-llava",
        "from moellava.model.language_model.llava_phi import LlavaPhiForCausalLM as Base": "moellava",
    }
    for line, adapter in bases.items():
        finer = f"{TRAP}{line}\nclass Finer(Base):\n    def forward(self): ...\n"
        write(tmp_path, files_of("LLaVA", **{"llava/model/language_model/finer.py": finer}))
        found = {item.name: (item.adapter_name, item.problem) for item in inspect(tmp_path).models}
        assert found == {"LlavaLlamaForCausalLM": ("llava", ""), "Finer": (adapter, "")}


def test_a_renamed_fork_gets_the_generic_adapter(tmp_path, doctor):
    """The whole qualified name counts; the fork trains all the same."""
    files = {name.replace("llava", "shiny"): text.replace("llava.", "shiny.") for name, text in LLAVA.items()}
    code, out = doctor(write(tmp_path, files))
    assert code == 0 and "Nothing is wrong: adapter generic for LlavaLlamaForCausalLM." in out
    assert "by its merge method; the first batch is checked" in out


NOVEL = """from transformers import PreTrainedModel
class NovelForCausalLM(PreTrainedModel):
    def forward(self, input_ids, labels, pixel_values): ...
"""


def test_a_vendored_host_does_not_speak_for_a_project(tmp_path, doctor):
    """With training code on both sides, with none, and where the project's own class can be trained."""
    train = "from novel.model import NovelForCausalLM\nHfArgumentParser((A, B))\n"
    bare = {name: text for name, text in LLAVA.items() if "/train/" not in name}
    for index, files in enumerate(({**LLAVA, "novel/train.py": train}, {**LLAVA, "run.py": train}, bare)):
        code, out = doctor(write(tmp_path / str(index), {**files, "novel/model.py": NOVEL}))
        assert code == 1 and "!! adapter none for NovelForCausalLM" in out
        assert "adapter llava for" not in out and "models in llava/: a copy of another host" in out
    own = LLAVA | {
        name.replace("llava", "novel"): text for name, text in host(LLAMA_FILE, "NovelForCausalLM", S6).items()
    }
    code, out = doctor(write(tmp_path / "own", own))
    assert code == 0 and "Nothing is wrong: adapter generic for NovelForCausalLM." in out


def test_what_came_with_a_host_does_not_condemn_it(tmp_path, doctor):
    """An evaluation suite with models of its own, in a checkout of LLaVA."""
    code, out = doctor(write(tmp_path, files_of("LLaVA", **{"evaluation/models/novel.py": NOVEL})))
    assert code == 0 and "adapter llava for LlavaLlamaForCausalLM" in out
    assert "-- adapter none for NovelForCausalLM" in out


def test_training_code_names_the_class_that_it_imports(tmp_path, doctor):
    """A class by the name of one that training takes from transformers is not trained."""
    same_name = NOVEL.replace("NovelForCausalLM", "LlamaForCausalLM")
    for line, code in (("from transformers import LlamaForCausalLM", 0), ("from tuned.llama import *", 1)):
        train = f"{line}\nmodel = LlamaForCausalLM\nHfArgumentParser(())\n"
        files = files_of("LLaVA", **{"tuned/llama.py": same_name, "llava/train/text.py": train})
        assert doctor(write(tmp_path, files))[0] == code


@pytest.mark.parametrize(
    "files",
    [
        {"flask_app/views.py": "class View: ...\n", "broken.py": "print 'Trainer'\n"},
        # a method that merely has the name
        {"swin/model.py": "class PatchEmbed(Module):\n    def _embed(self, x):\n        return x\n"},
        # packages and files whose names contain a host's
        {"dolphin/model/language_model/bunny_phi.py": "class BunnyPhiForCausalLM: ...\n"},
        {"tinyllava2/model/modeling_tinyllava.py": "class TinyLlavaForConditionalGeneration: ...\n"},
        {LLAMA_FILE: "class LlavaLlamaForCausalLMLike: ...\n"},
        {"src/share4v_tools/share4v_llama.py": "class Share4VLlamaForCausalLM: ...\n"},
    ],
)
def test_another_project(tmp_path, doctor, files):
    assert not inspect(write(tmp_path, files)).models
    code, out = doctor(tmp_path)
    assert code == 1 and "another project" in out and "register_adapter" in out


def test_empty_directory(tmp_path, doctor):
    code, out = doctor(tmp_path)
    assert code == 1 and "neither a checkpoint" in out


@pytest.mark.parametrize(
    ("signature", "returns", "complaint"),
    [
        ("self, ids, attention_mask, labels", "a, b, c, d, e, f", "has no parameter input_ids"),
        (
            "self, input_ids, attention_mask, labels",
            "a, b",
            "returns 2 values; embeddings, labels and a mask are needed",
        ),
    ],
)
def test_merge_method_that_is_not_understood(tmp_path, calm, signature, returns, complaint):
    source = f"class Meta:\n    def {MERGE}({signature}):\n        return {returns}\n"
    [line] = wrong_lines(write(tmp_path, files_of("LLaVA", **{"llava/model/arch.py": source})))
    assert complaint in line and line.startswith("adapter: llava for LlavaLlamaForCausalLM")


def test_problem_of_several_classes_is_one(tmp_path, calm):
    files = host("cambrian/model/a.py", "A", (S6[0], 2)) | host("cambrian/model/b.py", "B", (S6[0], 2))
    [line] = wrong_lines(write(tmp_path, files))
    assert "generic for A, B: Meta.prepare_inputs_labels_for_multimodal returns 2 values" in line


@pytest.mark.parametrize("method", [None, ("something_else(self)", 1)])
def test_known_class_without_its_merge_method(tmp_path, calm, method):
    files = files_of("LLaVA", **{"llava/model/arch.py": "class Meta: ...\n"}) if method is None else host(
        LLAMA_FILE, "LlavaLlamaForCausalLM", method
    )  # fmt: skip
    [line] = wrong_lines(write(tmp_path, files))
    assert f"{MERGE}, which adapter llava goes by, is not defined" in line


def test_trainer_with_missing_imports(tmp_path, doctor):
    trainer = "class LLaVATrainer(Trainer):\n    def _inner_training_loop(self):\n        DebugOption.UNDERFLOW\n"
    write(tmp_path, files_of("LLaVA", **{"llava/train/trainer.py": trainer}))
    code, out = doctor(tmp_path)
    assert code == 1 and "DebugOption" in out
    for imported in ("import DebugOption", "import (\n    A,\n    DebugOption,\n)", "import *"):
        write(tmp_path, {"llava/train/trainer.py": f"from transformers.debug_utils {imported}\n{trainer}"})
        assert doctor(tmp_path)[0] == 0


def test_training_without_trainer_and_parser(tmp_path, doctor):
    files = {name: text for name, text in LLAVA.items() if "/train/" not in name}
    code, out = doctor(write(tmp_path, files))
    assert code == 0 and "no subclass of a Trainer found" in out and "Use LLAVA_VISTA=1 or install()" in out


def test_python_imports_another_copy(tmp_path, doctor, monkeypatch):
    write(tmp_path / "mine", LLAVA)
    for place, noted in (("other/llava", True), ("mine/llava", False)):
        monkeypatch.setattr(checkout, "package_folders", lambda name, place=place: [tmp_path / place])
        code, out = doctor(tmp_path / "mine")
        assert code == 0 and (f"imports llava from {tmp_path / place}, not from this checkout" in out) == noted


def test_checkout_needs_an_older_transformers(tmp_path, doctor, monkeypatch):
    monkeypatch.setattr(environment, "found_versions", lambda: {"transformers": "5.23.0"})
    code, out = doctor(write(tmp_path, LLAVA))
    assert code == 1 and "4.37.2" in out


def test_installed_hosts(tmp_path, doctor, monkeypatch):
    """Found without importing them; hosts that share a package's name are distinguished."""
    for name, adapter, other in (("LLaVA", "llava", "vila"), ("VILA", "vila", "llava")):
        root = write(tmp_path / name, files_of(name))
        monkeypatch.setattr(targets, "package_folders", lambda name, root=root: [root / name] * (name == "llava"))
        code, out = doctor()
        assert code == 0 and f"ok adapter {adapter} for {HOSTS[name][2]}" in out and f"adapter {other} for" not in out
