"""What several ranks on a CPU need to be reliable: two faults that only gloo has, and that no GPU run meets.

Started as a script it is LLaVA's own `train_mem.py` for such ranks.
"""

from __future__ import annotations

import functools
import os
import sys


def wait_for_every_gather() -> None:
    """Make DeepSpeed's ZeRO-3 wait for each parameter that it gathers.

    It starts one asynchronous gather per parameter and waits for the last one only. NCCL finishes them in order; gloo
    runs them on two threads, so that under load earlier ones are still under way when their buffers, uninitialised
    memory, become the weights. Found in 0.15.4; DeepSpeed's pull request 8539 mends it in the same way.
    """
    from deepspeed import comm

    gather = comm.all_gather_into_tensor

    @functools.wraps(gather)
    def gather_and_wait(*args, **options):
        handle = gather(*args, **options)
        if handle is not None:  # it was asynchronous
            handle.wait()
        return handle

    comm.all_gather_into_tensor = gather_and_wait


def leave() -> None:
    """End this process successfully, without the interpreter's shutdown.

    A thread of gloo needs the GIL to let go of the tensors of a finished collective. If the interpreter is already
    shutting down then, Python ends that thread, and C++ the process: "terminate called without an active exception",
    exit code -6 (PyTorch's issue 190489). Destroying the process group does not help as long as an engine or a model
    holds on to it, for its threads are joined only after the last reference is gone.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    from llava.train.train import train

    wait_for_every_gather()
    train()
    leave()
