"""Replacing an attribute of somebody else's object, and putting it back exactly as it was."""

from __future__ import annotations

from typing import Any

from ..logging import warn_once

_MISSING = object()


class Replacement:
    """Sets ``owner.name`` to ``value``; `undo` restores what the owner itself held.

    An attribute that the owner had only inherited is deleted again, not copied down, and descriptors (static and class
    methods) are kept as they are.
    """

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self.owner, self.name, self.value = owner, name, value
        self._own = vars(owner).get(name, _MISSING)
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put the attribute back. When somebody replaced it after us, theirs is left in place and that is said."""
        if vars(self.owner).get(self.name, _MISSING) is not self.value:
            warn_once(
                f"{self.owner!r}.{self.name} was replaced by somebody else after llava-vista did; it is left as it is. "
                "What llava-vista had put there does nothing any more."
            )
        elif self._own is _MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self._own)
