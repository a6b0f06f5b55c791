"""The tiny training script with something different on one rank: what a mistaken set-up would do.

RANK_CASE is one of: options (ranks ask for different weights), off (rank 1 knows nothing of VISTA),
nan (the estimator breaks on rank 1 at its third batch).
"""

from __future__ import annotations

import os

import tiny_train
import torch

rank, case = int(os.environ["RANK"]), os.environ["RANK_CASE"]

if case == "options":
    os.environ["LLAVA_VISTA"] = f"weight={rank + 1}"
if case == "nan":
    from llava_vista import register_estimator

    calls = []

    @register_estimator("breaks_on_rank_1")
    def breaks_on_rank_1(anchors, bag):
        value = (anchors * bag.vector).sum(-1)
        calls.extend([1] * torch.is_grad_enabled())  # the loss; without gradients it is the log's similarity and margin
        return value / 0 if rank == 1 and torch.is_grad_enabled() and len(calls) == 3 else value

    os.environ["LLAVA_VISTA"] = "method=breaks_on_rank_1,weight=0.001"
if case != "off" or rank == 0:
    from llava_vista.hooks import listen, refusals

    refusals.TIMEOUT_SECONDS = 5
    if case == "off":
        os.environ["LLAVA_VISTA"] = "1"
    listen()

tiny_train.main()
