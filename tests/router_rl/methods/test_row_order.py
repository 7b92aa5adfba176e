"""Small tables are shuffled whole, large ones block by block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from router_rl.methods import row_order as module
from router_rl.methods.row_order import AT_ONCE_BYTES, row_order

BLOCK, BUFFER = 4, 3


def _order(rows: int, row_bytes: int, seed: int = 0) -> Tensor:
    return row_order(rows, row_bytes, torch.Generator().manual_seed(seed))


@pytest.fixture
def small_blocks(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_BLOCK", BLOCK)
    monkeypatch.setattr(module, "_BUFFER", BUFFER)


def test_a_small_table_is_permuted_whole() -> None:
    rows = 2**16
    expected = torch.randperm(rows, generator=torch.Generator().manual_seed(3))
    assert torch.equal(_order(rows, AT_ONCE_BYTES // rows, seed=3), expected)
    assert not torch.equal(_order(rows, AT_ONCE_BYTES // rows + 1, seed=3), expected)


@pytest.mark.parametrize("rows", [1, 4, 5, 23, 24, 1_003])
@pytest.mark.usefixtures("small_blocks")
def test_each_row_comes_once(rows: int) -> None:
    assert _order(rows, AT_ONCE_BYTES + 1).sort().values.tolist() == list(range(rows))


@pytest.mark.usefixtures("small_blocks")
def test_a_buffer_holds_few_blocks_from_everywhere_in_no_order() -> None:
    rows = 1_200
    order = _order(rows, AT_ONCE_BYTES)
    buffers = order.split(BLOCK * BUFFER)
    blocks = [(part // BLOCK).unique() for part in buffers]
    assert {len(each) for each in blocks} == {BUFFER}
    assert all(len(part.unique()) == BLOCK * BUFFER for part in buffers)
    assert torch.stack([each[-1] for each in blocks[:20]]).float().mean() > rows / BLOCK / 2
    assert not any(torch.equal(part, part.sort().values) for part in buffers)
    assert len({tuple((part // BLOCK).tolist()) for part in buffers}) == len(buffers)
    assert not torch.equal(order, _order(rows, AT_ONCE_BYTES, seed=1))


def test_a_batch_of_a_large_table_comes_from_the_blocks_of_one_buffer() -> None:
    order = _order(600_000, AT_ONCE_BYTES)
    first = order[:262_144] // 16_384
    assert 12 < len(first[:256].unique()) <= len(first.unique()) <= 17
