"""The command ``llava-vista compare``: forms of the report, exit codes, and what it does without matplotlib."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from compare_files import entry_mean, write_lmms, write_training

from llava_vista import cli

pytestmark = pytest.mark.environments("latest")


def both(tmp_path: Path, seed: int = 0) -> tuple[str, str]:
    """Directories that hold a training and an evaluation each."""
    folders = []
    for name, vista, right in (("base", {"weight": 0.0}, 50 + seed), ("vista", {}, 60 + 3 * seed)):
        ce = [1.0 + 1.0 / (1 + step) + seed / 90 for step in range(40)]
        folder = write_training(tmp_path / name, vista=vista, arguments={"seed": seed}, ce=ce)
        entries = [1.0] * right + [0.0] * (100 - right)
        write_lmms(folder, {"gqa": {"exact_match": (entry_mean(entries), entries)}, "chair<i>": {"rate": (0.2, None)}})
        folders.append(str(folder))
    return folders[0], folders[1]


def run_without(modules: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process in which some modules cannot be imported."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(sys.argv[1].split())); "
        "from llava_vista import cli; sys.exit(cli.main(sys.argv[2:]))"
    )
    return subprocess.run([sys.executable, "-c", code, modules, *words], capture_output=True, text=True)


def test_terminal_and_exit_code(tmp_path, capsys) -> None:
    assert cli.main(["compare", *both(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Nothing that is recorded differs but VISTA." in out
    line = next(line for line in out.splitlines() if line.startswith("gqa"))
    assert re.split(r"\s{2,}", line)[3:7] == ["100", "50.00", "60.00", "+10.00"]
    assert "62.00, 62.55, 62.90" in line and "0.002" in line and "better" in line


def test_a_refusal_has_an_exit_code(tmp_path, capsys) -> None:
    baseline = write_training(tmp_path / "a", train_batch_size=8)
    vista = write_training(tmp_path / "b", vista={})
    assert cli.main(["compare", str(baseline), str(vista)]) == 1
    out = capsys.readouterr().out
    assert "NOT A COMPARISON" in out and "train_batch_size (per device) is 8 in the baseline, 16 with VISTA" in out
    assert "nats per token" not in out


def test_groups_of_runs(tmp_path, capsys) -> None:
    runs = {
        arm: [
            str(
                write_training(tmp_path / f"{arm}{seed}", vista=vista, arguments={"seed": seed}, ce=[1 + seed / 9] * 40)
            )
            for seed in range(2)
        ]
        for arm, vista in (("a", {"weight": 0.0}), ("b", {}))
    }
    assert cli.main(["compare", "--baseline", *runs["a"], "--vista", *runs["b"]]) == 0
    assert "1.0556 ± 0.0786" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare"], "name a baseline and a VISTA run"),
        (["compare", "{a}"], "name a baseline and a VISTA run"),
        (["compare", "{a}", "--baseline", "{b}", "--vista", "{b}"], "in one way only"),
        (["compare", "--baseline", "{a}"], "name a baseline and a VISTA run"),
        (["compare", "{a}", "nowhere"], "nowhere does not exist"),
        (["compare", "--baseline", "{a}", "{a}/../a", "--vista", "{b}", "{b}"], "named twice for the baseline arm"),
        (["compare", "{a}", "{b}", "-o", "{a}/config.json/r.md"], "is not a folder and cannot become one"),
        (["compare", "{a}", "{b}", "-o", "report.doc"], "suffix must be one of .html, .md, .json, .png, .pdf, .svg"),
    ],
)
def test_mistakes_in_the_command(tmp_path, capsys, words, message) -> None:
    a, b = (str(write_training(tmp_path / name)) for name in "ab")
    assert cli.main([word.format(a=a, b=b) for word in words]) == 2
    assert message in capsys.readouterr().err


def test_nothing_to_compare(tmp_path, capsys) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    assert capsys.readouterr().out.count("holds nothing to compare") == 2


def test_json_and_markdown(tmp_path, capsys) -> None:
    paths = [tmp_path / "r.json", tmp_path / "r.md"]
    outputs = [word for path in paths for word in ("--output", str(path))]
    assert cli.main(["compare", *both(tmp_path), *outputs]) == 0
    content = json.loads(paths[0].read_text())
    assert content["comparable"] is True and content["complete"] is True
    gqa = next(row for row in content["scores"] if row["task"] == "gqa")
    assert gqa["change"] == pytest.approx(10) and gqa["interval_95"][0] < 10 < gqa["interval_95"][1]
    assert content["arms"][1]["trainings"][0]["curves"]["ce_loss"]["steps"][:3] == [1, 2, 3]
    assert {check["status"] for check in content["trainings"][0]["settings"]} == {"same"}
    markdown = paths[1].read_text()
    lines = markdown.splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("| task | metric | unit | n |"))
    assert re.fullmatch(r"\|( -+:? \|)+", lines[head + 1])
    assert lines[head].count("|") == lines[head + 1].count("|") == lines[head + 2].count("|")


def test_json_on_the_terminal_and_the_first_sentences_only(tmp_path, capsys) -> None:
    folders = both(tmp_path)
    path = tmp_path / "a" / "folder" / "r.md"
    assert cli.main(["compare", *folders, "--json", "-o", str(path)]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    assert content["arms"][1]["evaluations"][0]["date"] == "20260101_120000" and f"written: {path}" in err
    assert cli.main(["compare", *folders, "--quiet"]) == 0
    assert capsys.readouterr().out.splitlines() == content["headlines"] == [
        "Baseline against VISTA: trainings (runs per arm: 1), 2 evaluated tasks.",
        "Of 1 tested headline numbers: 1 better (gqa +10.00). 1 could not be tested.",
    ]  # fmt: skip
    markdown = path.read_text()
    assert all(sentence in markdown for sentence in content["headlines"])
    assert f"baseline: {folders[0]} (x/llava-v1.5-7b, 20260101_120000)" in markdown
    assert "the same for all of these tasks: lmms-eval generation 0.3, model wrapper llava, limit none" in markdown


@pytest.mark.parametrize("seeds", [1, 3])
def test_every_number_of_the_markdown_is_in_the_json(tmp_path, capsys, seeds) -> None:
    """Of the whole report: headline, tables, VISTA's terms and notes, in their printed precision."""
    paths = [tmp_path / "r.json", tmp_path / "r.md"]
    runs = [both(tmp_path / str(seed), seed) for seed in range(seeds)]
    words = ["--baseline", *(run[0] for run in runs), "--vista", *(run[1] for run in runs)]
    assert cli.main(["compare", *words, *(word for path in paths for word in ("-o", str(path)))]) == 0

    def texts(value: object) -> list[str]:
        if isinstance(value, (dict, list)):
            return [text for item in (value.values() if isinstance(value, dict) else value) for text in texts(item)]
        return [str(value)]

    known = texts(json.loads(paths[0].read_text()))
    numbers = [float(text) for text in known if re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text)]
    checked = 0
    for text in re.findall(r"(?<![\w./])[-+]?\d+\.\d+(?:e[-+]\d+)?%?(?![\w/])", paths[1].read_text()):
        digits = len(re.sub(r"e.*|%", "", text).partition(".")[2])
        value, scale = float(text.rstrip("%")), 100 if text.endswith("%") else 1
        assert any(abs(scale * number - value) <= 0.51 * 10**-digits for number in numbers) or any(
            text in other for other in known
        ), text
        checked += 1
    assert checked > 15


def test_figures_as_files_of_their_own(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    words = [word for kind in ("png", "pdf") for word in ("-o", str(tmp_path / "new" / f"r.{kind}"))]
    assert cli.main(["compare", *both(tmp_path), *words]) == 0
    begins = {"png": b"\x89PNG", "pdf": b"%PDF"}
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["r-curves.pdf", "r-curves.png", "r-lmms-eval.pdf", "r-lmms-eval.png"]
    assert all(file.read_bytes().startswith(begins[file.suffix[1:]]) for file in files)


def test_html_holds_everything_in_one_file(tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "r.html"
    assert cli.main(["compare", *both(tmp_path), "--output", str(path)]) == 0
    page = path.read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    images = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert len(images) == 2  # the curves, and the changes of the one harness
    for image in images:
        assert ElementTree.fromstring(base64.b64decode(image)).tag.endswith("svg")
    assert "chair&lt;i&gt;" in page and "chair<i>" not in page
    again = tmp_path / "again.html"
    assert cli.main(["compare", str(tmp_path / "base"), str(tmp_path / "vista"), "--output", str(again)]) == 0
    assert again.read_text() == page  # no dates, no random ids


@pytest.mark.parametrize(
    ("missing", "output", "message"),
    [
        ("scipy", None, "scipy is not installed"),
        ("numpy", None, "numpy is not installed"),
        ("jinja2", "r.html", "jinja2 is not installed"),
        ("jinja2", "r.md", "jinja2 is not installed"),
        ("matplotlib", "r.html", "matplotlib is not installed"),
    ],
)
def test_a_missing_extra_is_named_before_anything_is_printed(tmp_path, missing, output, message) -> None:
    """In a process of its own, whose modules are not loaded yet."""
    words = [] if output is None else ["--output", str(tmp_path / "r.json"), "--output", str(tmp_path / output)]
    done = run_without(missing, "compare", *both(tmp_path), *words)
    assert done.returncode == 2 and done.stdout == ""
    extra = "plots" if missing == "matplotlib" else "compare"
    assert message in done.stderr and f"pip install 'llava-vista[{extra}]'" in done.stderr
    assert not (tmp_path / "r.json").exists()


def test_two_trainings_need_no_extra(tmp_path) -> None:
    folders = [str(write_training(tmp_path / name, vista=vista, arguments={}))
               for name, vista in (("a", {"weight": 0.0}), ("b", {}))]  # fmt: skip
    path = tmp_path / "r.json"
    done = run_without("numpy scipy jinja2 matplotlib torch", "compare", *folders, "--output", str(path))
    assert done.returncode == 0 and "nats per token" in done.stdout, done.stderr
    assert json.loads(path.read_text())["complete"] is True


def test_figures_of_refused_and_seeded_runs(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from llava_vista.tools.compare.comparison import compare
    from llava_vista.tools.compare.comparison_figures import draw_figures

    long = {"steps": 300, "ce": [1 / (1 + step) for step in range(300)]}
    refused = compare(
        [str(write_training(tmp_path / "a", train_batch_size=8, **long))],
        [str(write_training(tmp_path / "b", vista={}, **long))],
    )
    figures = draw_figures(refused)
    assert list(figures) == ["curves"] and figures["curves"].startswith(b"<?xml")


def test_changes_are_drawn_in_their_unit() -> None:
    """A rise from 0 is a rise, and a low baseline stretches nothing; a filled dot is a significant change."""
    figure = pytest.importorskip("matplotlib.figure").Figure()
    from llava_vista.tools.compare.comparison_figures import _draw_changes
    from llava_vista.tools.compare.score_rows import ScoreRow

    rows = [
        ScoreRow(
            "h", "t", "m", "%", [0.0], [5.0], True, p=0.01, p_holm=0.01, interval_95=(2.0, 8.0), noise="questions"
        ),
        ScoreRow("h", "t", "m", "%", [0.1], [0.9], True, p=0.01, p_holm=0.2, interval_95=(0.1, 1.5), noise="questions"),
        ScoreRow("h", "t", "m", "%", [50.0], [49.0], True),
    ]
    axis = figure.subplots()
    _draw_changes(axis, rows)
    dots = [line for line in axis.lines if line.get_marker() in ("o", "s")]
    assert [line.get_xdata()[0] for line in dots] == pytest.approx([5.0, 0.8, -1.0])
    assert [line.get_fillstyle() for line in dots] == ["full", "none", "none"]
    bars = [list(line.get_xdata()) for line in axis.lines if line.get_marker() == "|"]
    assert bars == [[2.0, 8.0], [0.1, 1.5]]


def test_it_loads_neither_torch_nor_matplotlib(tmp_path) -> None:
    a, b = both(tmp_path)
    code = (
        "import sys; from llava_vista import cli; code = cli.main(sys.argv[1:]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib', 'jinja2')))"
    )
    done = subprocess.run([sys.executable, "-c", code, "compare", a, b], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_stops_reading_is_no_error(tmp_path) -> None:
    """``| head``: no traceback and no message; the exit code is that of a process which SIGPIPE ended."""
    words = [sys.executable, "-m", "llava_vista.cli", "compare", *both(tmp_path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 141)
