"""A small tensor brought to the host without waiting for work that is queued after it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HostCopy:
    """Copy uint8 tensors to the host, one at a time: `start` where the values are known, `read` where they are needed.

    On CUDA the copy goes to pinned memory, and `read` waits for what was queued before `start` only: the work queued in
    between keeps the device busy. On other devices `start` itself waits.
    """

    def __init__(self) -> None:
        self._buffer = torch.empty(64, dtype=torch.uint8)
        self._view = self._buffer.numpy()
        self._shape = torch.Size()
        self._event: Any = None

    def start(self, values: Tensor) -> None:
        """Start copying ``values``. What was copied before is overwritten."""
        cuda = values.is_cuda
        if self._buffer.numel() < values.numel() or self._buffer.is_pinned() != cuda:
            self._buffer = torch.empty(values.numel(), dtype=torch.uint8, pin_memory=cuda)
            self._view = self._buffer.numpy()
        self._shape = values.shape
        self._buffer[: values.numel()].copy_(values.flatten(), non_blocking=cuda)
        self._event = None
        if cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(values.device))

    def read(self) -> Any:
        """Return the values as a numpy array, which the next `start` overwrites."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        return self._view[: self._shape.numel()].reshape(self._shape)
