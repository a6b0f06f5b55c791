"""Messages to the person who started the run: on standard error, from rank 0 only, not repeated."""

from __future__ import annotations

import logging
import os
import sys

logger = logging.getLogger("llava_vista")

_said: set[str] = set()


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what ``sys.stderr`` is at the time of the message, so that redirection works."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _tell(level: int, message: str) -> None:
    """Log on rank 0, by the environment that every launcher sets, on a handler of our own where the user has none."""
    if os.environ.get("RANK", "0") != "0":
        return
    if not logger.handlers and not logging.getLogger().handlers:
        handler = _StderrHandler()
        handler.setFormatter(logging.Formatter("[llava-vista] %(message)s"))
        logger.addHandler(handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    logger.log(level, message)


def say(message: str) -> None:
    """Tell rank 0's user something they asked to know."""
    _tell(logging.INFO, message)


def warn_once(message: str) -> None:
    """Warn about ``message`` the first time it occurs in this process; later times are silent."""
    if message not in _said:
        _said.add(message)
        _tell(logging.WARNING, f"WARNING: {message}")
