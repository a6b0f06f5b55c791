"""Replace an attribute of the host's objects, and restore exactly what was there."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MISSING = object()


class Replacement:
    """Put a wrapper in the place of the function ``owner.name``; `undo` restores what the owner itself held.

    An attribute that the owner had only inherited is deleted again, not copied down, and descriptors (static and class
    methods) are kept as they are. When another library has replaced the attribute after us, theirs stays and ours,
    which theirs may call, passes every call on to the original from then on.

    Args:
        owner: a class, a module or an instance.
        name: of the function.
        wrapper: what is called in the original's place, with the original's arguments.
        original: what is called after `undo`; the attribute as it is looked up when None.
    """

    def __init__(
        self, owner: Any, name: str, wrapper: Callable[..., Any], original: Callable[..., Any] | None = None
    ) -> None:
        self.owner, self.name = owner, name
        self._own = vars(owner).get(name, _MISSING)
        self._active = True
        call_original = getattr(owner, name) if original is None else original

        @functools.wraps(call_original)
        def replaced(*args: Any, **kwargs: Any) -> Any:
            return (wrapper if self._active else call_original)(*args, **kwargs)

        self._replaced = replaced
        setattr(owner, name, replaced)

    def undo(self) -> None:
        """Restore the attribute, or pass calls on where it is not ours any more."""
        self._active = False
        if vars(self.owner).get(self.name, _MISSING) is not self._replaced:
            return
        if self._own is _MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self._own)
