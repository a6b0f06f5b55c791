"""Route the calls of one model's method through a function, until that is removed.

The class is patched, not the instance: a wrapper on the instance would follow a deepcopy, where it would still act on
the original model, and could not be pickled. Instances that were not asked for are left alone.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod

from torch import nn

from .patching import Replacement

# Model -> method name -> who wants the calls; both weak, so that dropping model and owner frees them. A copy of the
# model is not in here, so the patch on its class leaves it alone.
_WANTED: WeakKeyDictionary[nn.Module, dict[str, WeakMethod[Callable[..., Any]]]] = WeakKeyDictionary()
# (class, method) -> the patch on it, shared by all instances.
_PATCHED: dict[tuple[type, str], Replacement] = {}


class Interception:
    """Calls of ``module.name(...)`` become ``call(method, args, kwargs)``, where ``method`` is the bound original.

    Args:
        module: the instance.
        name: a method of its class.
        call: a bound method of the owner, which is not kept alive by it.
    """

    def __init__(self, module: nn.Module, name: str, call: Callable[..., Any]) -> None:
        self.module, self.name = module, name
        _WANTED.setdefault(module, {})[name] = WeakMethod(call)
        _patch(type(module), name)

    def remove(self) -> None:
        """Restore the class once no other instance needs the patch."""
        wanted = _WANTED.get(self.module, {})
        wanted.pop(self.name, None)
        if not wanted:
            _WANTED.pop(self.module, None)
        cls = type(self.module)
        if not any(type(module) is cls and self.name in names for module, names in _WANTED.items()):
            replacement = _PATCHED.pop((cls, self.name), None)
            if replacement is not None:
                replacement.undo()


def _patch(cls: type[nn.Module], name: str) -> None:
    if (cls, name) in _PATCHED:
        return
    raw = inspect.getattr_static(cls, name)

    @functools.wraps(getattr(cls, name))
    def intercepted(*args: Any, **kwargs: Any) -> Any:
        if not args or not isinstance(args[0], cls):  # a static or class method, called through the class
            return raw.__get__(None, cls)(*args, **kwargs)
        self: nn.Module = args[0]
        args = args[1:]
        # A plain function is bound by a partial: torch.compile would look a bound method up on the class again, and so
        # find this wrapper instead of the original.
        method = functools.partial(raw, self) if inspect.isfunction(raw) else raw.__get__(self, type(self))
        wanted = _WANTED.get(self, {}).get(name)
        call = None if wanted is None else wanted()
        return method(*args, **kwargs) if call is None else call(method, args, kwargs)

    _PATCHED[cls, name] = Replacement(cls, name, intercepted, original=intercepted)
