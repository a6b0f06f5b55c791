"""The doctor on tiny trees in the shape of each known host, and on trees that merely look like one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from llava_vista import cli
from llava_vista.adapters import all_adapters
from llava_vista.tools.doctor import environment
from llava_vista.tools.doctor.checkout import inspect_checkout
from llava_vista.tools.doctor.examine import examine

pytestmark = pytest.mark.environments("latest")

TRAP = "raise RuntimeError('imported')\n"
MERGE = "prepare_inputs_labels_for_multimodal"
S6 = (f"{MERGE}(self, input_ids, position_ids, attention_mask, past_key_values, labels, images)", 6)
NEXT = (S6[0].replace("images)", "images, modalities=['image'], image_sizes=None)"), 6)
FIVE = (f"{MERGE}(self, input_ids, attention_mask, past_key_values, labels, images)", 5)
EMBED = ("_embed(self, input_ids, media, media_config, labels, attention_mask)", 3)
#: repository -> adapter, file of the model class, its name, the file of the merge method, that method
HOSTS = {
    "LLaVA": ("llava", "llava/model/language_model/llava_llama.py", "LlavaLlamaForCausalLM", S6),
    "LLaVA-NeXT": ("llava", "llava/model/language_model/llava_qwen.py", "LlavaQwenForCausalLM", NEXT),
    "CAL": ("llava", "llava/model/language_model/llava_llama.py", "LlavaLlamaForCausalLM", S6),
    "VIRAL": ("llava", "llava/model/language_model/llava_qwen2.py", "LlavaQwen2ForCausalLM", S6),
    "VILA": ("vila", "llava/model/language_model/llava_llama.py", "LlavaLlamaModel", EMBED),
    "TinyLLaVA_Factory": (
        "tinyllava", "tinyllava/model/modeling_tinyllava.py", "TinyLlavaForConditionalGeneration", S6,
    ),
    "Bunny": ("bunny", "bunny/model/language_model/bunny_phi.py", "BunnyPhiForCausalLM", S6),
    "MoE-LLaVA": ("moellava", "moellava/model/language_model/llava_phi_moe.py", "MoELLaVAPhiForCausalLM", S6),
    "Video-LLaVA": ("videollava", "videollava/model/language_model/llava_llama.py", "LlavaLlamaForCausalLM", S6),
    "ShareGPT4V": ("sharegpt4v", "share4v/model/language_model/share4v_llama.py", "Share4VLlamaForCausalLM", FIVE),
}  # fmt: skip


def tree(root: Path, model_file: str, model: str, method: tuple[str, int]) -> Path:
    package = model_file.partition("/")[0]
    signature, count = method
    values = ", ".join("abcdef"[:count])
    files = {
        f"{package}/__init__.py": TRAP,
        f"{package}/model/arch.py": f"{TRAP}class Meta:\n    def {signature}:\n        return {values}\n",
        # what several of them have beside their model: the decoder, by the name of VILA's model
        model_file: f"{TRAP}class LlavaLlamaModel(Meta): ...\nclass {model}(Base, Meta):\n    def forward(self): ...\n",
        f"{package}/train/trainer.py": f"{TRAP}class OwnTrainer(Trainer): ...\n",
        f"{package}/train/train.py": f"{TRAP}def train():\n    HfArgumentParser((A, B))\n",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing wrong with the environment, and no interpreters started."""
    monkeypatch.setattr(environment, "found_versions", lambda: {"python": "3.10.4", "torch": "2.1.2"})
    monkeypatch.setattr(
        environment, "imported_at_start", lambda value, *words: (["llava_vista.hooks"] if value or words else [], "")
    )
    monkeypatch.setattr(environment, "package_folders", lambda name: [])


@pytest.mark.parametrize("name", HOSTS)
def test_each_host_gets_its_adapter(tmp_path: Path, calm: None, capsys, name: str) -> None:
    adapter, model_file, model, method = HOSTS[name]
    tree(tmp_path, model_file, model, method)
    checkout = inspect_checkout(tmp_path, all_adapters())
    assert {(item.adapter.name, item.qualified.rpartition(".")[2]) for item in checkout.recognised} == {
        (adapter, model)
    }
    assert [found.name for found in checkout.merge_methods] == [method[0].partition("(")[0]]
    assert checkout.trainers and checkout.entries and not checkout.unknown
    assert cli.main(["doctor", str(tmp_path)]) == 0
    assert f"{adapter} for {model}" in " ".join(capsys.readouterr().out.split())


def test_no_host_is_imported(tmp_path: Path) -> None:
    for name in ("VILA", "TinyLLaVA_Factory"):
        _, *files = HOSTS[name]
        tree(tmp_path, *files)
    code = (
        "import sys\nfrom llava_vista.cli import main\nmain(['doctor', sys.argv[1]])\n"
        "heavy = {'transformers', 'llava', 'tinyllava'}\n"
        "print('imported', sorted(heavy & {name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.stdout.endswith("imported []\n"), done.stderr


def test_a_checkpoint_like_config_at_the_top_of_a_checkout(tmp_path: Path, calm: None, capsys) -> None:
    """VIRAL has one."""
    _, *files = HOSTS["VIRAL"]
    tree(tmp_path, *files)
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    assert cli.main(["doctor", str(tmp_path)]) == 0
    assert "llava for LlavaQwen2ForCausalLM" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "files",
    [
        # a method that merely has the name
        {"swin/model.py": "class PatchEmbed:\n    def _embed(self, x):\n        return x\n"},
        # packages and files whose names hold a host's
        {"dolphin/model/language_model/bunny_phi.py": "class BunnyPhiForCausalLM: ...\n"},
        {"tinyllava2/model/modeling_tinyllava.py": "class TinyLlavaForConditionalGeneration: ...\n"},
        {"llava/model/language_model/llava_llama.py": "class LlavaLlamaForCausalLMLike: ...\n"},
        {"src/share4v_tools/share4v_llama.py": "class Share4VLlamaForCausalLM: ...\n"},
    ],
)
def test_another_project(tmp_path: Path, calm: None, capsys, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert not inspect_checkout(tmp_path, all_adapters()).is_host
    assert cli.main(["doctor", str(tmp_path)]) == 1
    assert "another project" in capsys.readouterr().out


def test_a_shared_class_name_without_either_merge_method_is_reported(tmp_path: Path, calm: None) -> None:
    _, model_file, model, _ = HOSTS["LLaVA"]
    tree(tmp_path, model_file, model, ("something_else(self)", 1))
    wrong = [line.text for section in examine(str(tmp_path)).sections for line in section.lines if line.mark == "!!"]
    assert any(f"{MERGE}, which adapter llava goes by, is not defined" in text for text in wrong)


def test_an_installed_host_that_shares_a_class_name(tmp_path: Path, calm: None, capsys, monkeypatch) -> None:
    _, *files = HOSTS["LLaVA"]
    tree(tmp_path, *files)
    monkeypatch.setattr(environment, "package_folders", lambda name: [tmp_path / "llava"] if name == "llava" else [])
    assert cli.main(["doctor"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "adapter llava llava.model.language_model.llava_llama.LlavaLlamaForCausalLM" in out
    assert "adapter vila llava.model.language_model.llava_llama.LlavaLlamaModel is not in this version" in out
