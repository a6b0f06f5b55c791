"""Models whose visual information is known by construction, behind the probe's own seams (a host and an adapter).

They are not neural networks: no weight is learned, nothing is LLaVA's. An image is a row of n pixels, each the code of
one of four attribute values; an answer names the values in order. The decoder finds the answer position by counting,
attends to the one image row with that number (unless the attention mask forbids it), and the head turns what it read
into logits: sure of what was read, or the attribute's prior where nothing was read. So, for a model that reads position
t, log p(y_t | image) - log p(y_t | no image) is -log prior(y_t) (up to `SURE`), whose mean is the attribute's entropy.

What is not analytic is everything between: data, batches, merge method with position codes, masking, bootstrap, JSON.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image
from torch import nn

from llava_vista import Adapter
from llava_vista.tools.probe.hosts import ProbeHost

PRIOR = torch.tensor([0.5, 0.25, 0.125, 0.125])
ENTROPY = float(-(PRIOR * PRIOR.log()).sum())  # 1.213 nats
#: logit of what was read: log p is -3 * exp(-SURE) or so away from 0
SURE = 25.0
PAD, BEGIN, QUESTION, PLACEHOLDER, VALUE = 0, 1, 2, -7, 3
VOCABULARY, PIXELS = 7, 12
WIDTH = VOCABULARY + PIXELS + 4  # token one-hot, number of the image row, its value
#: grey levels of the four values; anything else (a blank image) says nothing
LEVELS = (10, 60, 180, 240)


class Decoder(nn.Module):
    """inputs_embeds (B, L, WIDTH) and attention_mask (B, L) in, what each position read (B, L, WIDTH) out."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.embed_tokens = nn.Embedding.from_pretrained(torch.eye(VOCABULARY, WIDTH))

    def forward(self, inputs_embeds=None, attention_mask=None, position_ids=None):
        answer_number = (inputs_embeds[..., QUESTION] > 0).cumsum(1)  # 1 from the question's end on
        answer_number = answer_number.cumsum(1)  # (B, L): position that predicts answer t has t
        row_number = inputs_embeds[..., VOCABULARY : VOCABULARY + PIXELS]  # (B, L, PIXELS)
        wanted = nn.functional.one_hot(answer_number.clamp(max=PIXELS), PIXELS + 1)[..., 1:].float()
        wanted = wanted * (answer_number <= self.reach)[..., None]
        attends = torch.einsum("bqp,bkp->bqk", wanted, row_number) * attention_mask[:, None, :]
        return (torch.einsum("bqk,bkd->bqd", attends, inputs_embeds),)


class Head(nn.Module):
    """What a position read -> logits."""

    broken = False

    def forward(self, hidden):
        logits = torch.full((*hidden.shape[:-1], VOCABULARY), -60.0)
        logits[..., VALUE:] = PRIOR.log() + SURE * hidden[..., VOCABULARY + PIXELS :]
        return logits * torch.nan if self.broken else logits


class Reader(nn.Module):
    """Reads its image at answer positions 1..``reach``, and goes by the prior after that."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.decoder, self.head = Decoder(reach), Head()
        self.scale = nn.Parameter(torch.ones(()))

    def get_input_embeddings(self):
        return self.decoder.embed_tokens

    def get_output_embeddings(self):
        return self.head

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        embeds, codes = [], []
        for ids, code, values in zip(input_ids, labels, images, strict=True):
            rows = torch.zeros(len(values), WIDTH)
            rows[torch.arange(len(values)), VOCABULARY + torch.arange(len(values))] = 1
            known = values >= 0
            rows[known.nonzero().squeeze(1), VOCABULARY + PIXELS + values[known]] = 1
            at = int((ids == PLACEHOLDER).nonzero())
            words = self.decoder.embed_tokens(ids.clamp(min=0))
            embeds.append(torch.cat([words[:at], rows, words[at + 1 :]]))
            codes.append(torch.cat([code[:at], code.new_full((len(values),), -100), code[at + 1 :]]))
        mask = torch.stack(
            [torch.cat([m[:1].repeat(len(images[0])), m[1:]]) for m in attention_mask]
        )  # padding is on the right, so one true in front stands for the whole image
        return None, None, mask, None, torch.stack(embeds), torch.stack(codes)

    def forward(self, input_ids, attention_mask, labels, images):
        _, _, mask, _, embeds, merged = self.prepare_inputs_labels_for_multimodal(
            input_ids, None, attention_mask, None, labels, images
        )
        logits = self.head(self.decoder(inputs_embeds=embeds, attention_mask=mask)[0])  # (B, L, VOCABULARY)
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), merged[:, 1:].flatten())
        return SimpleNamespace(logits=logits, loss=loss)


class AnalyticAdapter(Adapter):
    classes = (f"{__name__}.Reader",)

    def image_ids(self, model):
        return (PLACEHOLDER,)

    def decoder(self, model):
        return model.decoder


class AnalyticHost(ProbeHost):
    name = "analytic"
    architectures = ("Reader",)

    def __init__(self, folder, config, options):
        self.model, self.notes = Reader(config["reach"]).eval(), {}
        self.model.head.broken = config.get("broken", False)

    def encode(self, turns, image):
        values = torch.tensor([LEVELS.index(p) if p in LEVELS else -1 for p in image.convert("L").tobytes()])
        answer = torch.tensor([VALUE + int(word) for word in turns[0].answer.split()])
        ids = torch.cat([torch.tensor([BEGIN, PLACEHOLDER, QUESTION]), answer])
        labels = ids.clone()
        labels[:3] = -100
        return {"input_ids": ids, "labels": labels, "image": values}

    def collate(self, encoded):
        longest = max(len(item["input_ids"]) for item in encoded)

        def pad(name, fill):
            rows = [item[name] for item in encoded]
            return torch.stack([torch.cat([row, row.new_full((longest - len(row),), fill)]) for row in rows])

        ids = pad("input_ids", PAD)
        images = torch.stack([item["image"] for item in encoded])
        return {"input_ids": ids, "labels": pad("labels", -100), "attention_mask": ids != PAD, "images": images}

    def answer(self, turns, image, max_new_tokens):
        values = [LEVELS.index(pixel) for pixel in image.convert("L").tobytes()]
        return " ".join(str(value) for value in values[:max_new_tokens]), len(values) > max_new_tokens

    def tower_features(self, batch):
        return nn.functional.one_hot(batch["images"] + 1, 5).float().flatten(1)

    def decode(self, ids):
        return "".join(f"{int(token) - VALUE} " for token in ids)


def write_checkpoint(folder: Path, reach: int, **more) -> Path:
    """A checkpoint folder of a `Reader`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["Reader"], "reach": reach, **more}))
    return folder


def write_data(folder: Path, count: int, seed: int = 0, answers: bool = True) -> Path:
    """``count`` images with values drawn from the prior, and a JSON that names them: answers are 6 to 12 words long."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    records = []
    for number in range(count):
        values = rng.choices(range(4), weights=PRIOR.tolist(), k=PIXELS)
        image = Image.frombytes("L", (PIXELS, 1), bytes(LEVELS[value] for value in values))
        image.save(folder / f"{number}.png")
        human = {"from": "human", "value": "<image>\nWhich values?"}
        words = values[: rng.randint(6, PIXELS)]
        gpt = {"from": "gpt", "value": " ".join(str(value) for value in words)}
        turns = [human, gpt] if answers else [human]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": turns})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


def surprise(path: Path) -> list[list[float]]:
    """-log prior of every word of every answer: what a model that reads everything should show."""
    records = json.loads(path.read_text())
    return [
        [-math.log(float(PRIOR[int(word)])) for word in record["conversations"][1]["value"].split()]
        for record in records
    ]
