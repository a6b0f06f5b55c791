"""The Triton kernels under Triton's interpreter, on a CPU: run by test_triton with TRITON_INTERPRET=1."""

from __future__ import annotations

from itertools import product

import torch
from objective_checks import METHODS, equals_a_literal_loop, rows_without_weight_do_not_count

from llava_vista.objective import backend, bag, rows_triton

WIDTHS = (48, 300)
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = ((1, 1, 300), (2, 70, 33))  # one program, and three a sample


def main() -> None:
    for width, dtype in product(WIDTHS, DTYPES):
        assert backend.agree(rows_triton, torch.device("cpu"), dtype, width), (width, dtype)
        print("equal to PyTorch", width, dtype)
    bag.backend = lambda x: rows_triton
    for shape, method in product(SHAPES, METHODS):
        equals_a_literal_loop(*shape, method, "linear", "all")
        print("equal to the loop", shape, method)
    for method in METHODS:
        rows_without_weight_do_not_count(method, "answer", torch.bfloat16, torch.nan)
        print("equal with garbage in other rows", method)


if __name__ == "__main__":
    main()
