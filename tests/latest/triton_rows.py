"""The Triton kernels under Triton's interpreter, on a CPU: run by test_triton with TRITON_INTERPRET=1."""

from __future__ import annotations

from itertools import product

import test_objective
import torch

from llava_vista.objective import backend, bag, rows_triton

WIDTHS = (48, 300)
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = ((1, 1, 300), (2, 70, 33))  # one program, and three a sample


def main() -> None:
    for width, dtype in product(WIDTHS, DTYPES):
        assert backend.agree(rows_triton, torch.device("cpu"), dtype, width), (width, dtype)
        print("equal to PyTorch", width, dtype)
    bag.backend = lambda x: rows_triton
    for shape, method in product(SHAPES, test_objective.METHODS):
        test_objective.test_values_and_gradients_equal_a_literal_loop(*shape, method, "linear", "all")
        print("equal to the loop", shape, method)
    for method in test_objective.METHODS:
        test_objective.test_rows_without_weight_reach_neither_value_nor_gradient(
            method, "answer", torch.bfloat16, torch.nan, None
        )
        print("equal with garbage in other rows", method)


if __name__ == "__main__":
    main()
