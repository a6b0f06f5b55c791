"""``--vista_probe_steps``: information of every class against the probe's own passes; training stays bit-identical."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from native_models import FAMILIES
from stand_in import IMAGE_LABEL, Rows, StandIn, StandInAdapter, arguments, build, collate
from torch import nn
from torch.nn.functional import cross_entropy
from traced import answer_log_probs, trace
from transformers import Trainer, TrainingArguments

from llava_vista import ConfigError, VistaConfig, install, register_adapter, uninstall
from llava_vista.adapters import ADAPTERS
from llava_vista.config import read_environment
from llava_vista.hooks.host_probe import measure_batches

pytestmark = pytest.mark.environments("latest", "older")
KEYS = ("vista_information", "vista_information_slope", "vista_information_tokens")


class Batches(torch.utils.data.Dataset):
    """Batches of a row with an image, a text-only (or video) row, and a row with two images."""

    def __init__(self, name: str) -> None:
        self.rows = [FAMILIES[name].batch(seed=seed) for seed in range(3)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        return self.rows[index]


def train(
    model: nn.Module, data: torch.utils.data.Dataset, output: Path, config: VistaConfig | None, **more
) -> Trainer:
    uninstall()
    if config is not None:
        install(config)
    options = TrainingArguments(
        **{
            "output_dir": str(output), "max_steps": 3, "logging_steps": 1, "learning_rate": 1e-2, "save_strategy": "no",
            "report_to": [], "remove_unused_columns": False, "disable_tqdm": True, "use_cpu": True, "seed": 0,
            "per_device_train_batch_size": 1, **more,
        }
    )  # fmt: skip
    trainer = Trainer(model, options, train_dataset=data, data_collator=lambda given: given[0])
    trainer.train()
    return trainer


def traced_information(model: nn.Module, batch: dict) -> tuple[float, float, int]:
    """Mean, slope over the number of the token in its sample, and count: literal loops over whole forward passes."""
    seen, blind = (trace(model.eval(), batch, blind=blind) for blind in (False, True))
    values, xy, xx = [], 0.0, 0.0
    for row, scores in enumerate(zip(*map(answer_log_probs, (seen, blind)), strict=True)):
        if seen.layout.image[row].any():
            nats = (scores[0] - scores[1]).tolist()
            middle = (len(nats) + 1) / 2
            xy += sum((number - middle) * value for number, value in enumerate(nats, start=1))
            xx += sum((number - middle) ** 2 for number in range(1, len(nats) + 1))
            values += nats
    return sum(values) / len(values), xy / xx, len(values)


@pytest.mark.parametrize("name", [name for name in FAMILIES if not name.endswith("merging")])
def test_a_class_is_measured_and_trains_as_without(tmp_path, name: str, caplog) -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return FAMILIES[name].build()

    data = Batches(name)
    plain = train(model(), data, tmp_path, None)
    probed = train(model(), data, tmp_path, VistaConfig(weight=0, probe_steps=1))
    for key, value in plain.model.state_dict().items():
        assert torch.equal(probed.model.state_dict()[key], value), key
    records = [record for record in probed.state.log_history if "loss" in record]
    if (name, transformers.__version__[:4]) == ("LlavaNextVideoForConditionalGeneration", "4.44"):
        # It hands positions that start again at the padding to the next merge, as packed rows have them.
        assert not any(set(KEYS) & set(record) for record in records)
        assert "cannot measure: several samples share a row" in caplog.text
        return
    assert all(set(KEYS) <= set(record) for record in records)
    # The first step's batch is one of the three: the untrained model on it.
    wanted = [traced_information(model(), batch) for batch in data.rows]
    found = [records[0][key] for key in KEYS]
    assert min(max(abs(a - b) for a, b in zip(found, one, strict=True)) for one in wanted) < 1e-5

    # LLAVA_VISTA_PROBE's pass over the host's loader, on the same model
    uninstall()
    trainer = Trainer(model(), probed.args, train_dataset=data, data_collator=lambda given: given[0])
    samples = measure_batches(trainer, VistaConfig(method="cosine"), 3)
    assert sum(sum(sample["nats"]) for sample in samples) == pytest.approx(sum(a * n for a, _, n in wanted), abs=1e-4)
    assert sum(sum(sample["tokens"]) for sample in samples) == sum(n for _, _, n in wanted)
    assert all(0 <= sample["own_first"] <= 1 for sample in samples)


@pytest.fixture
def stand_in() -> Iterator[None]:
    register_adapter("stand-in")(StandInAdapter)
    yield
    ADAPTERS.remove("stand-in")


class Scaled(StandIn):
    """Divides its logits, as Granite does."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        output = super().forward(input_ids, attention_mask, labels, images, **kwargs)
        merged = self.prepare_inputs_labels_for_multimodal(input_ids, attention_mask, None, labels, images)[4]
        output.logits = output.logits / 8
        wanted = merged[:, 1:].masked_fill(merged[:, 1:] == IMAGE_LABEL, -100)
        output.loss = cross_entropy(output.logits[:, :-1].flatten(0, 1), wanted.flatten())
        return output


def test_scaled_logits_are_not_measured(tmp_path, stand_in, caplog) -> None:
    model = build()
    model.__class__ = Scaled
    install(VistaConfig(probe_steps=1))
    trainer = Trainer(model, arguments(tmp_path, logging_steps=1), train_dataset=Rows(), data_collator=collate)
    trainer.train()
    assert not any(key in record for record in trainer.state.log_history for key in KEYS)
    assert "vista_information cannot be measured" in caplog.text


@pytest.mark.skipif(transformers.__version__ < "5", reason="4.44 has no Gemma 3, and its PaliGemma takes no cap")
def test_capped_logits_are_the_hosts_own(tmp_path) -> None:
    """PaliGemma caps its logits by its configuration; Gemma 3 with images has the value and does not."""
    for name, caps in (("PaliGemmaForConditionalGeneration", True), ("Gemma3ForConditionalGeneration", False)):

        def model(name: str = name) -> nn.Module:
            torch.manual_seed(0)
            made = FAMILIES[name].build()
            made.config.get_text_config().final_logit_softcapping = 0.5
            return made

        data = Batches(name)
        plain, capped = FAMILIES[name].build().eval(), model().eval()
        plain.load_state_dict(capped.state_dict())
        differ = not torch.equal(plain(**data.rows[0]).logits, capped(**data.rows[0]).logits)
        assert differ == caps, name
        trainer = train(model(), data, tmp_path, VistaConfig(weight=0, probe_steps=1))
        record = next(record for record in trainer.state.log_history if "loss" in record)
        wanted = [traced_information(model(), batch) for batch in data.rows]
        found = [record[key] for key in KEYS]
        assert min(max(abs(a - b) for a, b in zip(found, one, strict=True)) for one in wanted) < 1e-5
        uninstall()


@pytest.mark.parametrize("case", ["plain", "accumulation", "compile", "bf16", "dropout", "text"])
def test_only_every_nth_step_is_measured(tmp_path, stand_in, case: str) -> None:
    """And whatever else a training has, its weights are those without the probe."""
    more = {
        "accumulation": {"gradient_accumulation_steps": 2},
        "compile": {"torch_compile": True, "torch_compile_backend": "eager"},
        "bf16": {"bf16": True},
    }.get(case, {})
    results = []
    for config in (VistaConfig(), VistaConfig(probe_steps=2)):
        uninstall()
        install(config)
        model = build()
        if case == "dropout":
            for layer in model.model.layers:
                layer.mlp.down_proj = nn.Sequential(layer.mlp.down_proj, nn.Dropout(0.3))
        data = Rows(0 if case == "text" else 1)
        options = arguments(tmp_path, logging_steps=1, **more)
        trainer = Trainer(model, options, train_dataset=data, data_collator=collate)
        trainer.train()
        results.append(trainer)
    plain, probed = results
    for (name, value), other in zip(plain.model.state_dict().items(), probed.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    records = [record for record in probed.state.log_history if "loss" in record]
    measured = [all(key in record for key in KEYS) for record in records]
    assert measured == ([False] * 4 if case == "text" else [True, False, True, False])
    if case != "text":
        assert abs(records[0]["vista_information"]) > 1e-6


def test_the_option_is_a_whole_number() -> None:
    assert read_environment("probe_steps=50") == (True, {"probe_steps": 50})
    for bad in ("2.5", "often", "True"):
        with pytest.raises(ConfigError, match="whole number"):
            VistaConfig(**read_environment(f"probe_steps={bad}")[1])
    with pytest.raises(ConfigError, match="whole number"):
        VistaConfig(probe_steps=-1)
