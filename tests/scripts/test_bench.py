"""Every benchmark runs, on tiny shapes, and writes results of the form that the table and the plot read."""

from __future__ import annotations

import json
import math
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from literal import literal_vista

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
sys.path.insert(0, str(BENCH))

import bench_kit  # noqa: E402
import growth  # noqa: E402
import objective  # noqa: E402
import startup  # noqa: E402
from published import published_vista  # noqa: E402


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def read(folder: Path, name: str) -> dict:
    document = json.loads((folder / bench_kit.file_name(name, "cpu", True)).read_text())
    assert document["rows"]
    assert {"date", "device", "torch", "threads", "load_average"} <= document["environment"].keys()
    return document


@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_published_arithmetic_is_the_equation(method: str) -> None:
    """What the objective is timed against gives the same value and gradients, on ragged rows of several images."""
    shape, spans, length = (2, 40, 8), [(3, 7), (12, 20)], 33
    case = objective.make_case(shape, torch.float32, "cpu", trained=True, spans=spans, length=length)
    theirs = published_vista(case.inputs_embeds, case.hidden, case.images, case.lengths, method)
    theirs.backward()
    gradients = case.inputs_embeds.grad, case.hidden.grad
    case.clear()
    ours = case.ours(method)
    ours.backward()
    exact, _ = literal_vista(
        case.inputs_embeds.double(), case.hidden.double(), case.layout.text, case.layout.image, method
    )
    assert theirs.item() == pytest.approx(exact.item(), abs=1e-6)
    assert ours.item() == pytest.approx(exact.item(), abs=1e-6)
    torch.testing.assert_close(case.inputs_embeds.grad, gradients[0])
    torch.testing.assert_close(case.hidden.grad, gradients[1])


@pytest.mark.parametrize("scale", [1.0, 0.02])
@pytest.mark.parametrize("shape", [(1, 256, 512), (4, 300, 256), (2, 128, 777)])
@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_no_further_from_float64_than_the_published_arithmetic(
    method: str, shape: tuple[int, int, int], scale: float
) -> None:
    """Also where the released code computes in float32: down to the last bit, so over many seeds."""
    error = objective.accuracy(method, "cpu", 100, shape, scale)
    assert error["ours"] <= error["published"]
    if method == "l2":  # little is left but the rounding of the result
        assert error["ours"] < 1.5 * error["rounding"]


def test_objective(tmp_path: Path) -> None:
    objective.main(["--smoke", "--memory", "default", "--device", "cpu", "--rounds", "3", "--out", str(tmp_path)])
    document = read(tmp_path, "objective")
    assert {(row["dtype"], row["trained"], row["method"]) for row in document["rows"]} == {
        (dtype, trained, method)
        for dtype in ("bfloat16", "float32")
        for trained in (False, True)
        for method in ("l2", "cosine", "infonce")
    }
    for row in document["rows"]:
        assert row["text_positions"] + row["image_positions"] == row["shape"][1]
        assert all(value > 0 for value in (*row["ms"].values(), row["times_clone"]))
        assert ("faster_than_published" in row) == (row["method"] != "infonce")
    assert all(row["ours"] < 1e-4 for row in document["accuracy"])


def test_growth(tmp_path: Path) -> None:
    growth.main(["--smoke", "--memory", "default", "--device", "cpu", "--rounds", "3", "--out", str(tmp_path)])
    document = read(tmp_path, "growth")
    assert document["slopes"].keys() == {"L", "m", "B", "d", "images"}
    assert all(math.isfinite(value) for slopes in document["slopes"].values() for value in slopes.values())


@pytest.mark.parametrize(("power", "expected"), [(1, 1.0), (2, 2.0)])
def test_slope(power: int, expected: float) -> None:
    assert growth.slope([(value, 3.0 * value**power) for value in (1, 2, 4, 8)]) == pytest.approx(expected)


def test_memory_is_kept() -> None:
    """Where there is glibc. In a process of its own, because it holds for the rest of one."""
    code = "import bench_kit; print(bench_kit.keep_memory())"
    told = subprocess.run([sys.executable, "-c", code], cwd=BENCH, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert told.strip() == str(platform.libc_ver()[0] == "glibc")


def test_start_up(tmp_path: Path) -> None:
    startup.main(["--smoke", "--memory", "default", "--out", str(tmp_path)])
    row = read(tmp_path, "startup")["rows"][0]
    assert row["computing"]["fastest_ms"][0] > 0


def test_step(tmp_path: Path) -> None:
    import step

    step.main(["--smoke", "--memory", "default", "--device", "cpu", "--rounds", "1", "--out", str(tmp_path)])
    (row,) = read(tmp_path, "step_smoke")["rows"]
    assert row["peak_bytes"]["with"] > 0
    assert all(value > 0 for value in row["ms"].values())


def test_the_page_has_the_table_of_the_results() -> None:
    import plot

    assert plot.table(plot.RESULTS).strip() in plot.PAGE.read_text()


def test_table_and_plot(tmp_path: Path) -> None:
    """From results that have the true names; what is missing is marked as not run."""
    import plot

    row = {
        "shape": [8, 1024, 4096], "faster_than_published": 12.0, "extra_memory_share": 0.001, "times_clone": 1.5,
        "published_times_clone": 20.0, "gradients_share": 0.5,
    }  # fmt: skip
    unpublished = {key: row[key] for key in ("shape", "times_clone", "gradients_share")}
    objective_document = {
        "options": {"memory": "kept"},
        "environment": {"device": "a CPU", "threads": 1, "torch": "2", "date": "2026-01-01T00:00:00"},
        "accuracy": [
            {"method": "l2", "ours": 1e-7, "published": 1e-7, "published_in_bfloat16": 1e-3, "rounding": 3e-8}
        ],
        "rows": [
            {**content, "dtype": "bfloat16", "trained": trained, "method": method}
            for trained in (False, True)
            for method, content in (("l2", row), ("cosine", row), ("infonce", {**unpublished, "times_clone": 1.7}))
        ],
    }
    growth_document = {
        "slopes": {"L": {"frozen": 0.9, "trained": 1.0, "clone": 1.0}},
        "rows": [
            {"axis": "L", "value": value, "ms": {"frozen": value, "trained": 2 * value, "clone": value}}
            for value in (1, 2, 4)
        ],
    }
    for name, document in (("objective", objective_document), ("growth", growth_document)):
        (tmp_path / bench_kit.file_name(name, "cpu", False)).write_text(json.dumps(document))
    page = tmp_path / "page.md"
    page.write_text(f"# Cost\n\n{plot.TABLE_BEGIN}old\n{plot.TABLE_END}\n\nNotes.\n")
    plot.main(["--results", str(tmp_path), "--page", str(page)])
    text = page.read_text()
    assert text.startswith("# Cost\n")
    assert text.endswith("\n\nNotes.\n")
    assert "old" not in text
    assert "not run: `python scripts/bench/step.py 7b --device cuda`" in text
    assert "| 12.0x |" in text
    assert plot.KEPT in text
    assert "| 1.5x to 1.7x (50% of it: making the gradients, of zeros) |" in text
    assert (tmp_path / "performance.png").stat().st_size > 10_000
