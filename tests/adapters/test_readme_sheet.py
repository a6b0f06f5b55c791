"""The data sheet of llava_vista/adapters/README.md, and the attributes that its table names."""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

import llava_vista
from llava_vista.adapters import ADAPTERS, Adapter, find_adapter

TEXT = (Path(llava_vista.__file__).parent / "adapters" / "README.md").read_text(encoding="utf-8")


def test_the_sheet_is_found_and_used() -> None:
    [sheet] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    cls = type(
        "MyLlavaForCausalLM", (nn.Module,), {"__module__": "my_repo.modeling", "merge_images": lambda self: None}
    )
    model = cls()
    model.language_model = nn.Linear(1, 1)
    try:
        exec(compile(sheet, "README.md", "exec"), {})
        found = find_adapter(model)
        assert found.adapter.name == "my-llava" and found.module is model
        assert found.adapter.merges(model) and found.adapter.decoder(model) is model.language_model
    finally:
        ADAPTERS.remove("my-llava")


def test_the_table_names_what_there_is() -> None:
    named = re.findall(r"^\| `(\w+)(?:\(\w+\))?` \|", TEXT, re.MULTILINE)
    public = {name for name in vars(Adapter) if not name.startswith("_")} - {"name", "fallback", "merges"}
    assert len(named) == 9 and set(named) == public
