"""Slots in blocks of one expert each, as vLLM's and SGLang's fused mixture-of-experts kernels take them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..router_error import RouterError
from .kernel_rule import Dispatch

__all__ = ["SlotBlocks", "in_blocks"]


class SlotBlocks(NamedTuple):
    """Slots sorted by expert, each expert's padded to whole blocks; int32, as `moe_align_block_size` returns.

    Attributes:
        slots: [M] slot numbers (`sorted_token_ids`); T * k where there is none.
        experts: [M / block] the expert of each block (`expert_ids`); past the last block, the last expert.
        length: [1] how many of `slots` belong to blocks (`num_tokens_post_pad`); a multiple of the block.
    """

    slots: Tensor
    experts: Tensor
    length: Tensor


def in_blocks(dispatch: Dispatch, block: int) -> SlotBlocks:
    """Pad each expert's slots to whole blocks. M is an upper bound, so that nothing waits for a GPU.

    Args:
        dispatch: the slots sorted by expert.
        block: slots of a block (`BLOCK_SIZE_M`).

    Raises:
        RouterError: the block is not positive.

    Source: vLLM, `vllm/model_executor/layers/fused_moe/moe_align_block_size.py`.
    """
    if block < 1:
        raise RouterError(f"block={block} is not positive; use what the kernel is tuned for, such as 64")
    count, experts, device = len(dispatch.order), len(dispatch.counts), dispatch.order.device
    counts = dispatch.counts.long()
    padded = torch.div(counts + block - 1, block, rounding_mode="floor") * block
    ends = padded.cumsum(0)
    before = counts.cumsum(0)
    place = torch.arange(count, device=device)
    shift = (ends - padded) - (before - counts)
    place = place + shift[torch.searchsorted(before, place, right=True)]
    most = -(-(count + experts * (block - 1)) // block) * block
    slots = torch.full((most,), count, dtype=torch.int32, device=device)
    slots = slots.scatter(0, place, dispatch.order.int())
    owner = torch.searchsorted(ends, torch.arange(0, most, block, device=device), right=True)
    return SlotBlocks(slots, owner.clamp(max=experts - 1).int(), ends[-1:].int())
