"""What makes a host run on a bare CPU machine, from outside: copied as ``sitecustomize.py`` into the scratch folder.

Every item is asked for by name in HOST_SCRATCH and named again in the verdict; nothing of it acts in anybody's real
training.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: How the files of `_record_batches` begin.
BATCHES = "batch-"
#: The placeholder of an image in LLaVA and its relatives.
IMAGE_TOKEN = -200


class _AbsentMeta(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(f"{cls.__module__}.{cls.__name__}", name)


class _Absent(metaclass=_AbsentMeta):
    """Stands for anything of a package that is not installed: may be named, subclassed and made, but not called."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(type(self).__module__, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and (callable(args[0]) or isinstance(args[0], _Absent)):
            return args[0]  # used as a decorator
        raise RuntimeError(f"{type(self).__module__} is a placeholder in this run: the package is not installed")


def _absent(module: str, name: str) -> type:
    return _AbsentMeta(name, (_Absent,), {"__module__": module})


class _PlaceholderModule(ModuleType):
    __version__ = "0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _absent(self.__name__, name)


def _deepspeed_asks() -> bool:
    """DeepSpeed does without the packages that it finds missing, and would really use those that it finds."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("deepspeed"):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


class _Placeholders(MetaPathFinder, Loader):
    """Finds the named packages and everything below them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = set(names)

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        parts = fullname.split(".")
        if _deepspeed_asks():
            return None
        if any(".".join(parts[: end + 1]) in self.names for end in range(len(parts))):
            return ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _PlaceholderModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _AfterImport(MetaPathFinder):
    """Calls a function once, right after one module was imported."""

    def __init__(self, name: str, then: Callable[[ModuleType], None]) -> None:
        self.name, self.then = name, then
        self.searching = False

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != self.name or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.searching = False
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                self.then(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _seed() -> None:
    """Hosts make their projector before their trainer seeds, so two runs would start from different ones."""
    sys.meta_path.insert(0, _AfterImport("torch", lambda torch: torch.manual_seed(0)))


def _dataclass_defaults() -> None:
    """Python 3.11 refuses an unhashable default in a dataclass; until 3.10 only list, dict and set were refused."""
    import dataclasses
    import inspect

    source = inspect.getsource(dataclasses._get_field)
    rule = "f.default.__class__.__hash__ is None"
    if rule in source:
        exec(source.replace(rule, "isinstance(f.default, (list, dict, set))"), vars(dataclasses))


def _no_cuda_calls() -> None:
    """``.cuda()`` does nothing: the host calls it whatever the device is."""

    def patch(torch: ModuleType) -> None:
        torch.nn.Module.cuda = lambda self, *args, **kwargs: self
        torch.Tensor.cuda = lambda self, *args, **kwargs: self

    sys.meta_path.insert(0, _AfterImport("torch", patch))


def _no_cuda_synchronize() -> None:
    def patch(torch: ModuleType) -> None:
        torch.cuda.synchronize = lambda *args, **kwargs: None

    sys.meta_path.insert(0, _AfterImport("torch", patch))


def _silent_wandb() -> None:
    """A module ``wandb`` that takes everything and does nothing: the host logs to it from inside its model."""

    def anything(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None

    module = ModuleType("wandb")
    module.__spec__ = ModuleSpec("wandb", None)
    module.__getattr__ = anything  # type: ignore[method-assign]
    sys.modules["wandb"] = module


def _sdpa_for_flash_attention() -> None:
    """The host asks for flash_attention_2, which no CPU has."""

    def patch(modeling: ModuleType) -> None:
        cls = modeling.PreTrainedModel
        choose = cls._autoset_attn_implementation.__func__

        def autoset(model_class: Any, config: Any, *args: Any, **kwargs: Any) -> Any:
            if config._attn_implementation == "flash_attention_2":
                config._attn_implementation = "sdpa"
            return choose(model_class, config, *args, **kwargs)

        cls._autoset_attn_implementation = classmethod(autoset)

    sys.meta_path.insert(0, _AfterImport("transformers.modeling_utils", patch))


def _record_batches(folder: str) -> None:
    """Write every batch that a Trainer is given to ``folder``, as it was given."""

    def patch(trainer: ModuleType) -> None:
        prepare = trainer.Trainer._prepare_inputs

        def recorded(self: Any, inputs: Any) -> Any:
            import torch

            if "labels" in inputs:
                kept = {name: inputs[name].clone() for name in ("input_ids", "labels", "attention_mask")}
                # VILA's placeholders are tokens that its tokenizer names
                media = getattr(getattr(self.model, "tokenizer", None), "media_token_ids", {})
                kept["image_token"] = torch.tensor(media.get("image", IMAGE_TOKEN))
                torch.save(kept, os.path.join(folder, f"{BATCHES}{len(os.listdir(folder)):03d}.pt"))
            return prepare(self, inputs)

        trainer.Trainer._prepare_inputs = recorded

    sys.meta_path.insert(0, _AfterImport("transformers.trainer", patch))


FIXES: dict[str, tuple[Callable[[], None], str]] = {
    "seed": (_seed, "torch seeded at its import"),
    "dataclass-defaults": (_dataclass_defaults, "Python 3.10's rule for dataclass defaults"),
    "no-cuda-synchronize": (_no_cuda_synchronize, "torch.cuda.synchronize() made a no-op (a CPU build refuses it)"),
    "silent-wandb": (_silent_wandb, "wandb replaced by a stand-in that does nothing"),
    "sdpa-for-flash-attention": (_sdpa_for_flash_attention, "sdpa in the place of flash_attention_2"),
    "no-cuda-calls": (_no_cuda_calls, ".cuda() made a no-op"),
}


def main() -> None:
    wanted = json.loads(os.environ.get("HOST_SCRATCH", "{}"))
    if wanted.get("placeholders"):
        sys.meta_path.insert(0, _Placeholders(wanted["placeholders"]))
    for name in wanted.get("fixes", ()):
        FIXES[name][0]()
    if os.environ.get("HOST_BATCHES"):
        _record_batches(os.environ["HOST_BATCHES"])


if __name__ == "sitecustomize":
    main()
