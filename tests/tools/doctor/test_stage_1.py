"""The checkpoint of LLaVA-1.5's stage 1, as its own trainer's configuration is saved, beside the installed host."""

from __future__ import annotations

import pytest

from llava_vista import cli
from llava_vista.adapters import find_adapter

pytestmark = pytest.mark.environments("llava")


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_verdict_is_that_of_attach(tmp_path, make_model, capsys, kind):
    model = make_model(kind)
    found = find_adapter(model)
    # Stage 1 saves the configuration alone: its `architectures` is still the language model's.
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(tmp_path)
    code = cli.main(["doctor", str(tmp_path)])
    out = capsys.readouterr().out
    assert code == 0
    assert out.startswith(f"Nothing is wrong: adapter {found.adapter.name} for {type(found.module).__name__}.")
    assert len(out.splitlines()) <= 12
