"""What batches of transformers' own vision-language classes are made of, for `native_models` and `native_more`.

Rows of ids with placeholder tokens, and their pixels: a row with one image, one without, and one with two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers

from llava_vista.attach.observation import Observer, Recorder

PAD, IMAGE, VIDEO, START, END, VOCABULARY = 0, 60, 61, 62, 63, 64
#: Of `native_more` only; its models know four tokens more.
AUDIO, VIDEO_START, VIDEO_END, NEWLINE = 64, 65, 66, 67
IGNORE = -100
#: Images of the three rows.
IMAGES = (1, 0, 2)


class Family(NamedTuple):
    """build makes the model, the same every time (after seeding); batch the inputs of rows with so many images each."""

    build: Callable[[], torch.nn.Module]
    batch: Callable[..., dict]


def rows(block: list[int], images: tuple[int, ...], seed: int, length: int = 8) -> dict[str, torch.Tensor]:
    """Ids, mask and labels: text of ``length`` tokens (less in later rows) with ``block`` standing for each image."""
    generator = torch.Generator().manual_seed(seed)
    ids, labels = [], []
    for row, count in enumerate(images):
        text = torch.randint(3, 60, (length - row,), generator=generator)
        tokens = torch.cat([text[:1], *[torch.tensor(block)] * count, text[1:]])
        wanted = tokens.clone()
        wanted[: 1 + len(block) * count + 2] = IGNORE
        ids.append(tokens)
        labels.append(wanted)
    pad = torch.nn.utils.rnn.pad_sequence
    padded = pad(ids, batch_first=True, padding_value=PAD)
    return {
        "input_ids": padded,
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE),
    }


def pixels(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def accepted(name: str, batch: dict) -> dict:
    """Without the inputs that this version's forward does not know."""
    known = inspect.signature(getattr(transformers, name).forward).parameters
    return {key: value for key, value in batch.items() if key in known}


def fill_newline(model: torch.nn.Module) -> torch.nn.Module:
    """Up to 4.4x it is made by ``torch.empty``, and so may hold anything until a checkpoint is loaded."""
    for name, value in model.named_parameters():
        if name.endswith("image_newline"):
            torch.nn.init.normal_(value, std=0.2)
    return model


def with_videos(inputs: dict, images: tuple[int, ...], block: list[int]) -> dict:
    """``block`` in front of the rows that have no image, as much text in front of the others."""
    without = torch.tensor([number == 0 for number in images])[:, None]
    before = torch.where(without, torch.tensor(block)[None], 5)
    ids, ones = inputs["input_ids"], torch.ones_like(before)
    return {
        "input_ids": torch.cat([ids[:, :1], before, ids[:, 1:]], dim=1),
        "attention_mask": torch.cat([ones, inputs["attention_mask"]], dim=1),
        "labels": torch.cat([IGNORE * ones, inputs["labels"]], dim=1),
    }


def idefics3_batch(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """Images by row, filled up with black ones."""
    values = torch.zeros(len(images), max(images), 3, 16, 16)
    for row, count in enumerate(images):
        values[row, :count] = pixels(seed + row, count, 3, 16, 16)
    return {**rows([START, *[IMAGE] * 4, END], images, seed), "pixel_values": values}


class Part(NamedTuple):
    """A modality: the tokens of one image, and its inputs by name (a shape of random numbers, or a list of values).

    The first dimension is multiplied by the number of images.
    """

    block: list[int]
    inputs: dict[str, tuple[int, ...] | list]

    def make(self, count: int, seed: int) -> dict[str, torch.Tensor]:
        made = {}
        for name, value in self.inputs.items():
            if isinstance(value, tuple):
                made[name] = pixels(seed, count * value[0], *value[1:])
            else:
                made[name] = torch.tensor(value * count)
        return made


def misread_rows(family: Family) -> int:
    """Return at how many positions VISTA's image rows are not those of the batch's image and video tokens."""
    model, inputs, recorder = family.build().train(), family.batch(), Recorder()
    ids = inputs["input_ids"].clone()
    observer = Observer(model, recorder)
    model(**inputs)
    observer.remove()
    assert recorder.last is not None and recorder.last.layout is not None
    return int((recorder.last.layout.image != (ids == IMAGE) | (ids == VIDEO)).sum())


# Images of 16x16, or of 4x4 patches, which most classes merge 2x2.


def flat(count: int = 16, **inputs: Any) -> Part:
    """Whole images, which become so many rows each."""
    return Part([START, *[IMAGE] * count, END], {"pixel_values": (1, 3, 16, 16), **inputs})


def grid(*shape: int, count: int = 4, **inputs: Any) -> Part:
    """Patches of images, which become so many rows each."""
    values = {"pixel_values": shape, "image_grid_thw": [[1, 4, 4]], **inputs}
    return Part([START, *[IMAGE] * count, END], values)


def film(*shape: int, **inputs: Any) -> Part:
    """Patches of videos of one grid."""
    values = {"pixel_values_videos": shape, "video_grid_thw": [[1, 4, 4]], "video_second_per_grid": [1.0], **inputs}
    return Part([START, *[VIDEO] * 4, END], values)


def sound(length: int) -> Part:
    """A spectrogram of so many frames, which becomes two rows."""
    values = {"input_features": (1, 8, length), "feature_attention_mask": [[1] * length]}
    return Part([VIDEO_START, AUDIO, AUDIO, VIDEO_END], values)


def by_row(images: tuple[int, ...] = IMAGES, seed: int = 0, count: int = 4) -> dict:
    """Images by row, with a mask of those that are none, and what a robot does."""
    inputs = {**idefics3_batch(images, seed), **rows([IMAGE] * count, images, seed)}
    real = torch.arange(max(images))[None] < torch.tensor(images)[:, None]
    state, actions = pixels(seed, len(images), 32), pixels(seed, len(images), 50, 32)
    return {**inputs, "pixel_attention_mask": real, "state": state, "actions": actions}


def side_by_side(images: tuple[int, ...] = IMAGES, seed: int = 0) -> dict:
    """Patches of all images in one."""
    sizes, values = torch.tensor([[4, 4]] * sum(images)), pixels(seed, 1, 3, 4, sum(images) * 64)
    return {**rows([START, *[IMAGE] * 4, END], images, seed), "pixel_values": values, "target_sizes": sizes}
