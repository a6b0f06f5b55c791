"""A pretrained timm model as a vision tower to compare a checkpoint's decoder with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from ...errors import ProbeError


class TimmTower:
    """A pretrained timm model without its classifier, by the name that ``timm.create_model`` takes."""

    def __init__(self, name: str, device: torch.device) -> None:
        try:
            import timm
        except ImportError as error:
            raise ProbeError(
                f"--tower {name} needs timm, which cannot be imported here ({error}): pip install 'llava-vista[timm]' "
                "(it installs torchvision, which must match your torch). Without --tower the checkpoint's own vision "
                "tower is used."
            ) from error
        try:
            self.model: Any = timm.create_model(name, pretrained=True, num_classes=0)
        except (RuntimeError, OSError) as error:  # no such model; no weights here and no download
            raise ProbeError(
                f"timm cannot make {name!r}: {error}. timm.list_models() lists its models; local-dir:FOLDER names a "
                "saved one (config.json and weights)."
            ) from error
        self.model.eval().to(device)
        data = timm.data.resolve_model_data_config(self.model)
        self.transform: Any = timm.data.create_transform(**data, is_training=False)
        self.name, self.device = f"timm {name}", device

    @torch.no_grad()
    def features(self, images: Sequence[Image]) -> Tensor:
        """Return pooled features (B, d_vision) of the images."""
        pixels = torch.stack([self.transform(image) for image in images])  # (B, 3, H, W)
        features: Tensor = self.model(pixels.to(self.device))
        return features
