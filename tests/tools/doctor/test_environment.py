"""Versions, the start-up hook, LLAVA_VISTA, known issues, and the forms of the result."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from host_trees import HOSTS, files_of, write

from llava_vista import cli
from llava_vista.adapters import base
from llava_vista.tools.doctor import environment, known_issues
from llava_vista.tools.doctor.known_issues import KNOWN_ISSUES, applies, is_version
from llava_vista.tools.kit.fresh_interpreter import imported_at_start

pytestmark = pytest.mark.environments("latest")


def test_this_environment(capsys):
    """The real thing; whatever this environment is like, the exit code says what the report says."""
    code = cli.main(["doctor", "--verbose"])
    out = capsys.readouterr().out
    assert code == int("\n  !!" in out)
    for expected in ("Versions", "python", "torch", "Start-up hook", "LLAVA_VISTA=1", "Hosts", "llava"):
        assert expected in out
    assert out.isascii()


def test_as_a_module():
    """Without the console script, as JSON alone on standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "llava_vista.cli", "doctor", "--json"], capture_output=True, text=True, timeout=100
    )
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1) and done.stderr == ""


# --- the three forms of the result ---


@pytest.mark.parametrize("name", [None, *HOSTS])
def test_twelve_lines_with_the_answer_first(tmp_path, calm, capsys, name):
    arguments = [] if name is None else [str(write(tmp_path, files_of(name)))]
    code = cli.main(["doctor", *arguments])
    lines = capsys.readouterr().out.splitlines()
    assert code == 0 and len(lines) <= 12 and max(map(len, lines)) <= 110
    assert lines[0] == "Nothing is wrong." if name is None else lines[0].startswith("Nothing is wrong: adapter ")
    assert lines[-1].endswith("Details: llava-vista doctor --verbose")
    rest = " ".join(" ".join(lines).split())
    for label in ("Versions", "Start-up hook", "Request", "Hosts", "Known issues"):
        assert label in rest


def test_short_form_with_many_problems(tmp_path, calm, capsys, monkeypatch):
    """Problems come before everything else; what there is no room for is counted."""
    monkeypatch.setenv("LLAVA_VISTA", "method=nonsense")
    monkeypatch.setattr(environment, "imported_at_start", lambda value, *words: ([], "ImportError: gone"))
    broken = {name: text.replace("return a, b, c, d, e, f", "return a") for name, text in files_of("LLaVA").items()}
    broken["llava/train/loop.py"] = "class Loop(Trainer):\n    x = DebugOption.UNDERFLOW\n"
    broken["llava/model/arch.py"] = "class Meta: ...\n"
    assert cli.main(["doctor", str(write(tmp_path, broken))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "4 problems found (marked !!)." and len(lines) <= 12
    assert sum(line.startswith("  !!") for line in lines) >= 3
    assert cli.main(["doctor", "--json", str(tmp_path)]) == 1
    found = json.loads(capsys.readouterr().out)
    sections = {item["title"]: [line["mark"] for line in item["lines"]] for item in found["sections"]}
    summaries = [title for title, marks in sections.items() if "!!" not in marks and not title.startswith("Patched")]
    marks = [mark for marks in sections.values() for mark in marks]
    assert marks.count("!!") == 4
    shown = sum(line[2:4] in ("!!", "ok", "--") for line in lines)
    assert lines[-1].startswith(f"Left out: {4 + marks.count('--') + len(summaries) - shown}. ")


def test_json(tmp_path, calm, capsys):
    write(
        tmp_path,
        files_of(
            "LLaVA", **{"evaluation/novel.py": "class N(Base):\n    def forward(self, input_ids, labels, image): ...\n"}
        ),
    )
    code = cli.main(["doctor", "--json", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["ok"] is True
    assert found["answer"] == "Nothing is wrong: adapter llava for LlavaLlamaForCausalLM."
    models = {item["class"]: (item["adapter"], item["place"], bool(item["problem"])) for item in found["models"]}
    assert models == {
        "LlavaLlamaForCausalLM": ("llava", "llava/model/language_model/llava_llama.py:7", False),
        "N": ("none", "evaluation/novel.py:1", True),
    }
    # every line of the long form
    cli.main(["doctor", "--verbose", str(tmp_path)])
    verbose = " ".join(capsys.readouterr().out.split())
    for section in found["sections"]:
        assert section["title"] in verbose
        for line in section["lines"]:
            assert f"{line['label'].strip()} {' '.join(line['text'].split())}" in verbose
            assert line["mark"] in ("ok", "!!", "--", "")


# --- the start-up hook and LLAVA_VISTA ---


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
    assert imported_at_start(None) == ([], "")
    assert "llava_vista.hooks" in imported_at_start("1")[0]


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
    assert found == code and expected in out


def test_without_torch(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.main(["doctor", str(tmp_path)]) == 1
    assert "torch cannot be imported" in capsys.readouterr().out


def test_adapter_of_a_package_that_cannot_be_loaded(doctor, monkeypatch):
    monkeypatch.setattr(base, "_broken_entry_points", {"shiny": "shiny.vista: ImportError('gone')"})
    code, out = doctor()
    assert code == 0 and "shiny of an installed package cannot be loaded (shiny.vista: ImportError('gone'))" in out


# --- known issues ---


def labels(versions: dict[str, str], *facts: str) -> list[str]:
    return [issue["label"] for issue in KNOWN_ISSUES if applies(issue, versions, facts)]


def test_is_version():
    assert (
        is_version("2.13.0+cpu", ">=2.13") and is_version("5.0.0.dev0", ">=5") and is_version("1.2.2.post1", "==1.2.*")
    )
    assert is_version("0.9", "<0.10") and not is_version("0.10", "<0.10")
    assert not is_version("unknown", ">=0") and not is_version(None, ">=0")


@pytest.mark.parametrize(
    ("versions", "facts", "label"),
    [
        ({"deepspeed": "0.19.8", "transformers": "4.37.2"}, (), "deepspeed"),
        ({"deepspeed": "0.15.4"}, ("host:llava", "torch:cpu"), "deepspeed"),  # saving
        ({"accelerate": "0.21.0"}, ("torch:cpu",), "accelerate"),
        ({"peft": "0.10.0"}, (), "peft"),
        ({"torch": "1.13.1"}, (), "torch"),
        ({"transformers": "4.31.0"}, (), "transformers"),
        ({"transformers": "4.37.2"}, ("host:videollava",), "transformers"),
        ({"transformers": "5.24.0"}, ("host:llava",), "transformers"),
        ({"transformers": "4.40.2", "llava-torch": "1.2.2.post1"}, (), "transformers"),
        ({"transformers": "4.40.2", "llava": "1.2.2.post1"}, (), "transformers"),
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, (), "torchvision"),
        ({"python": "3.11.7"}, ("host:moellava",), "MoE-LLaVA"),
        ({}, ("class:LlavaMptForCausalLM",), "LLaVA-MPT"),
        ({}, ("merge:modalities",), "LLaVA-NeXT"),
        ({}, ("unbound:DebugOption",), "LLaVA-NeXT"),
    ],
)
def test_issue_applies(versions, facts, label):
    assert labels(versions, *facts) == [label]


def test_no_issue():
    good = {"python": "3.11.7", "torch": "2.13.0+cpu", "transformers": "4.37.2", "accelerate": "0.34.2"}
    good |= {"peft": "0.21.2", "llava-torch": "1.2.2.post1", "deepspeed": "0.15.4", "torchvision": "0.28.0+cpu"}
    assert labels(good, "host:llava") == labels({}) == []
    assert labels({"transformers": "4.31.0"}, "host:share4v") == []
    assert labels({"python": "3.10.4"}, "host:tinyllava") == ["TinyLLaVA"]
    assert labels({"python": "3.11.4"}, "host:tinyllava") == ["TinyLLaVA", "TinyLLaVA"]


def test_rows_are_well_formed():
    for issue in KNOWN_ISSUES:
        assert set(issue) <= {"label", "versions", "when", "unless", "stops", "text"} and issue["text"].endswith(
            (".", ")")
        )
        assert issue.get("versions") or issue.get("when")
        for fact in [*issue.get("when", ()), *issue.get("unless", ())]:
            assert {kind.partition(":")[0] for kind in fact.split("|")} <= {
                "host", "class", "merge", "unbound", "torch", "torchvision",
            }  # fmt: skip


def test_without_packaging(doctor, monkeypatch):
    def missing(*arguments: object) -> bool:
        raise ModuleNotFoundError("No module named 'packaging'", name="packaging")

    monkeypatch.setattr(known_issues, "is_version", missing)
    code, out = doctor()
    assert code == 0 and "not checked: packaging is not installed (pip install packaging)" in out
