"""What training tools do to a batch before the model sees it: embedding, packing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import transformers
from native_models import FAMILIES, LLAVA
from transformers import HfArgumentParser, Trainer, TrainingArguments

from llava_vista import AttachError, VistaConfig, install

pytestmark = pytest.mark.environments("latest")

QWEN = "Qwen2_5_VLForConditionalGeneration"


def embed(model: torch.nn.Module, batch: dict) -> dict:
    """As ms-swift's templates: embeddings with image features in the place of the ids and pixels."""
    batch = dict(batch)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    features = model.model.get_image_features(batch.pop("pixel_values"), batch.pop("image_grid_thw")).pooler_output
    where = (batch["input_ids"] == model.config.image_token_id)[..., None].expand_as(embeds)
    batch["inputs_embeds"] = embeds.masked_scatter(where, torch.cat(list(features)).to(embeds))
    ids = batch.pop("input_ids")
    batch.pop("mm_token_type_ids")
    batch["position_ids"] = torch.arange(ids.shape[1]).expand(3, *ids.shape)
    return batch


class EmbedsInComputeLoss(Trainer):
    def compute_loss(self, model, inputs, **kwargs):
        return super().compute_loss(model, embed(model, inputs), **kwargs)


def run(tmp_path, trainer_class=Trainer, hook: bool = False) -> dict:
    torch.manual_seed(0)
    model = FAMILIES[QWEN].build()
    rows = [FAMILIES[QWEN].batch((1,), seed) for seed in range(2)]
    if hook:
        model.register_forward_pre_hook(lambda module, args, kwargs: ((), embed(module, kwargs)), with_kwargs=True)
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, per_device_train_batch_size=2, logging_steps=1, report_to=[], use_cpu=True,
        remove_unused_columns=False, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip

    def collate(rows):
        return {key: torch.cat([row[key] for row in rows]) for key in rows[0]}

    trainer = trainer_class(model, arguments, train_dataset=rows, data_collator=collate)
    trainer.train()
    return trainer.state.log_history[0]


def test_ids_are_found_where_the_tool_embeds_them_before_the_call(tmp_path) -> None:
    install(VistaConfig(weight=1.0))
    by_hook, by_trainer = run(tmp_path, hook=True), run(tmp_path, EmbedsInComputeLoss)
    assert by_hook["vista_aligned_samples"] == by_trainer["vista_aligned_samples"] == 2
    assert by_hook["vista_loss"] == pytest.approx(by_trainer["vista_loss"], abs=1e-6)
    # positions differ from the model's own, so the anchor does a little
    assert by_hook["vista_loss"] == pytest.approx(run(tmp_path)["vista_loss"], abs=1e-2)


@dataclass
class DataArguments:
    packing: bool = False
    neat_packing: bool = False


CHOICES = [({}, False), ({"packing": True}, True), ({"packing": True, "neat_packing": True}, False)]


@pytest.mark.parametrize(("options", "refused"), CHOICES)
def test_packing_without_a_sign_is_refused_by_the_tools_own_arguments(tmp_path, options: dict, refused: bool) -> None:
    install(VistaConfig(weight=1.0))
    keys = {
        "output_dir": str(tmp_path), "max_steps": 1, "report_to": "none", "use_cpu": True,
        "remove_unused_columns": False,
    }  # fmt: skip
    data, arguments = HfArgumentParser((DataArguments, TrainingArguments)).parse_dict({**keys, **options})
    rows = [{key: value[0] for key, value in FAMILIES[LLAVA].batch((1,), 1).items()}]
    collator, model = transformers.default_data_collator, FAMILIES[LLAVA].build()
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator)
    if refused:
        with pytest.raises(AttachError, match=f"{type(data).__name__} asks for packing without neat_packing"):
            trainer.train()
    else:
        trainer.train()
