"""Whatever a JSON file holds, compare ends with a report: each example replaces one value of one file."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from compare_files import AFTER, BEFORE, scored, write_llava, write_lmms, write_training
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llava_vista.tools.compare.comparison import compare
from llava_vista.tools.compare.comparison_report import build_report
from llava_vista.tools.kit.rendering import to_text

pytestmark = pytest.mark.environments("latest")

VALUES = st.sampled_from([None, True, -1, 0, 3.5, math.nan, math.inf, "", "x", [], [1], ["a", None], {}, {"a": [1]}])


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """A baseline and a VISTA run, each with a training, lmms-eval's results with questions, and LLaVA's."""
    root = tmp_path_factory.mktemp("whole")
    found = []
    for name, vista, entries in (("a", {"weight": 0.0}, BEFORE), ("b", {}, AFTER)):
        folder = write_training(root / name, vista=vista, arguments={}, steps=12)
        write_lmms(folder, {"gqa": {"exact_match": scored(entries[40:60])}}, layout="0.7" if vista else "0.3")
        found.append(write_llava(folder / "llava"))
    return [folder.parent for folder in found]


def replaced(value: Any, path: list[int], new: Any) -> Any:
    """Replace the node that the numbers lead to."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return new
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = keys[path[0] % len(keys)]
    changed = value.copy()
    changed[key] = replaced(value[key], path[1:], new)
    return changed


@given(data=st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_gives_a_report(folders, tmp_path, data) -> None:
    target = tmp_path / "copy"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folders[1], target)
    files = sorted([*target.rglob("*.json"), *target.rglob("*.jsonl")])
    path = data.draw(st.sampled_from(files), "file")
    steps, new = data.draw(st.lists(st.integers(0, 40), max_size=4), "path"), data.draw(VALUES, "value")
    if path.suffix == ".jsonl" and not path.name.endswith("_output.jsonl"):
        lines = path.read_text().splitlines()
        lines[3] = json.dumps(replaced(json.loads(lines[3]), steps, new))
        path.write_text("\n".join(lines))
    else:
        path.write_text(json.dumps(replaced(json.loads(path.read_text()), steps, new)))
    result = compare([str(folders[0])], [str(target)])
    assert to_text(build_report(result)) and json.dumps(result.to_dict())
