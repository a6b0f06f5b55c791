"""InternVL chat (OpenGVLab/InternVL), up to InternVL 3; transformers' own InternVL is in transformers_native.py."""

from __future__ import annotations

from torch import nn

from ..errors import UnsupportedModelError
from .base import Adapter, register_adapter


@register_adapter("internvl-chat")
class InternVlChat(Adapter):
    """One placeholder token per image row; the host's script sets its id on the model after it has built it."""

    classes = ("internvl.model.internvl_chat.modeling_internvl_chat.InternVLChatModel",)
    merge_method = ""

    def matches(self, module: nn.Module) -> bool:
        # Published checkpoints bring this class along as remote code, each under a module name of its own. Of the
        # instance itself: PEFT's wrappers forward attributes.
        return super().matches(module) or (
            "img_context_token_id" in vars(module) and "language_model" in module._modules
        )

    def merges(self, model: nn.Module) -> bool:
        return False

    def placeholder_ids(self, model: nn.Module) -> tuple[int, ...]:
        token = model.img_context_token_id
        if not isinstance(token, int):
            raise UnsupportedModelError(
                f"{type(model).__name__}.img_context_token_id is {token!r}; the id of <IMG_CONTEXT> was expected. "
                "Set it before the training, as InternVL's script does."
            )
        return (token,)
