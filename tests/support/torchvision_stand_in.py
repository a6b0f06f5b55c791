"""Stands for torchvision, which timm imports and which this project's CPU environments do not have.

What timm's evaluation transform uses acts as torchvision's does (on PIL images); anything else may be named and
subclassed, as timm does when it is imported, and fails when it is made.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
from PIL import Image


class InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    NEAREST_EXACT = "nearest-exact"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class Resize:
    """The shorter edge to a number, or both edges to a pair."""

    def __init__(self, size: Any, interpolation: InterpolationMode) -> None:
        self.size, self.how = size, getattr(Image.Resampling, interpolation.name)

    def __call__(self, image: Image.Image) -> Image.Image:
        if not isinstance(self.size, int):
            return image.resize(self.size[::-1], self.how)
        short = min(image.size)
        return image.resize(tuple(int(self.size * edge / short) for edge in image.size), self.how)


class CenterCrop:
    def __init__(self, size: Any) -> None:
        self.height, self.width = size if not isinstance(size, int) else (size, size)

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = round((image.width - self.width) / 2), round((image.height - self.height) / 2)
        return image.crop((left, top, left + self.width, top + self.height))


def to_tensor(image: Image.Image) -> torch.Tensor:
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


class ToTensor:
    def __call__(self, image: Image.Image) -> torch.Tensor:
        return to_tensor(image)


class Normalize:
    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        self.mean, self.std = mean[:, None, None], std[:, None, None]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.mean) / self.std


class Compose:
    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class _Absent:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError(f"{type(self).__name__} is a stand-in: torchvision is not installed")


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Absent,), {})


@contextmanager
def stand_in() -> Iterator[None]:
    """``import torchvision`` finds the stand-in, and timm is imported again; afterwards both are as before."""
    before = {name: sys.modules.pop(name) for name in _loaded()}
    real = (InterpolationMode, Resize, CenterCrop, ToTensor, Normalize, Compose)
    parts: dict[str, dict[str, Any]] = {
        "torchvision": {"__version__": "0"},
        "torchvision.transforms": {part.__name__: part for part in real},
        "torchvision.transforms.functional": {"InterpolationMode": InterpolationMode, "to_tensor": to_tensor},
        "torchvision.ops": {},
        "torchvision.ops.misc": {"FrozenBatchNorm2d": type("FrozenBatchNorm2d", (torch.nn.Module,), {})},
        "torchvision.models": {},
        "torchvision.models.feature_extraction": {},
        "torchvision.datasets": {},
    }
    for name, content in parts.items():
        module = _Module(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        vars(module).update(content)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    try:
        yield
    finally:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(before)


def _loaded() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] in ("timm", "torchvision")]
