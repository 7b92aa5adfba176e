"""Slots in blocks of one expert: by hand, and slot by slot."""

from __future__ import annotations

import pytest
import torch

from router_rl.routing import RouterError
from router_rl.routing.kernels import in_blocks, naive


def test_by_hand():
    """The example of vLLM's `moe_align_block_size`."""
    experts = torch.tensor([[2, 3, 4], [1, 2, 4], [1, 3, 4], [1, 2, 3]])
    blocks = in_blocks(naive.dispatch(experts, 5), 4)
    assert blocks.length.tolist() == [16]
    assert blocks.slots[:16].tolist() == [3, 6, 9, 12, 0, 4, 10, 12, 1, 7, 11, 12, 2, 5, 8, 12]
    assert blocks.experts[:4].tolist() == [1, 2, 3, 4]
    assert len(blocks.slots) == 4 * len(blocks.experts) >= 12 + 5 * 3
    assert {value.dtype for value in blocks} == {torch.int32}


@pytest.mark.parametrize("block", [1, 3, 16])
@pytest.mark.parametrize(("rows", "k", "experts"), [(0, 2, 4), (1, 1, 1), (7, 2, 40), (130, 4, 9)])
@pytest.mark.parametrize("ids", [torch.int64, torch.int32])
def test_slot_by_slot(rows, k, experts, block, ids):
    generator = torch.Generator().manual_seed(rows)
    chosen = torch.rand(rows, experts, generator=generator).argsort(dim=1)[:, :k].to(ids)
    found = in_blocks(naive.dispatch(chosen, experts), block)
    slots: list[int] = []
    owners: list[int] = []
    flat = chosen.flatten().tolist()
    for expert in range(experts):
        own = [slot for slot, owner in enumerate(flat) if owner == expert]
        own += [len(flat)] * (-len(own) % block)
        slots += own
        owners += [expert] * (len(own) // block)
    assert found.length.tolist() == [len(slots)]
    assert found.slots.tolist() == slots + [len(flat)] * (len(found.slots) - len(slots))
    assert found.experts[: len(owners)].tolist() == owners
    assert ((found.experts >= 0) & (found.experts < experts)).all()


def test_a_block_of_no_slots_is_refused():
    with pytest.raises(RouterError, match="block=0 is not positive; use what the kernel is tuned for"):
        in_blocks(naive.dispatch(torch.zeros(1, 1, dtype=torch.int64), 1), 0)
