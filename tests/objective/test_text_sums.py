"""Reading rows in pieces, with and without knowing which rows have a weight."""

from __future__ import annotations

import pytest
import torch
from objective_checks import METHODS, equals_a_literal_loop, rows_without_weight_do_not_count

from llava_vista.objective import text_sums


@pytest.fixture(params=["known", "unknown"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In many pieces, of which it is known which rows count (as on a CPU) or not (as elsewhere)."""
    cut = text_sums._cut
    monkeypatch.setattr(text_sums, "_PIECE_CORE", 100)
    if request.param == "unknown":
        monkeypatch.setattr(text_sums, "_cut", lambda *given: [piece._replace(rows="some") for piece in cut(*given)])
        monkeypatch.setattr(text_sums, "_multiplies_exactly", lambda device: False)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("batch", "length", "width"), [(3, 47, 17), (1, 1, 300), (50, 2, 9), (7, 4, 5)])
def test_both_ways_of_reading_equal_a_literal_loop(
    batch: int, length: int, width: int, method: str, reading: None
) -> None:
    equals_a_literal_loop(batch, length, width, method, "linear", "all")


def test_pieces_cover_everything_once_and_say_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_sums, "_PIECE_CORE", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    used = torch.zeros(6, 30, dtype=torch.bool)
    used[0], used[1, 11:], used[2, 3], used[3, ::2] = True, True, True, True
    used[4, :9], used[4, 12] = True, True
    # 1: three samples each; 10: at most 10 rows of a run, short runs together; 1000: one row, or a run without weights
    for width, count in ((1, 2), (10, 3 + 3 + 2 + 3 + 3 + 1), (1000, 30 + 1 + 19)):
        seen = torch.zeros(used.shape, dtype=torch.int)
        pieces = text_sums._cut(used if width < 1000 else used[[0, 1]], width)
        for piece in pieces:
            part = used[piece.at]
            seen[piece.at] += 1
            assert piece.rows == "none" or part.numel() <= max(1, 100 // width)
            assert piece.rows != "all" or part.all()
            assert piece.rows != "none" or not part.any()
        assert (seen == 1)[: 2 if width == 1000 else 6].all()
        assert len(pieces) == count


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scope", ["all", "answer"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_without_weight_reach_neither_value_nor_gradient(
    method: str, scope: str, dtype: torch.dtype, bad: float, reading: None
) -> None:
    rows_without_weight_do_not_count(method, scope, dtype, bad)
