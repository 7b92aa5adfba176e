"""The order in which an epoch visits the training rows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["AT_ONCE_BYTES", "row_order"]

AT_ONCE_BYTES = 2**31
"""Tables of more bytes are shuffled block by block."""

_BLOCK = 16_384  # rows that lie together: several megabytes of each memory-mapped column
_BUFFER = 16  # blocks shuffled together


def row_order(rows: int, row_bytes: int, generator: torch.Generator) -> Tensor:
    """Return a random order of all rows [T] int64, on the generator's device.

    Any order of a small table has the same probability. A large table is read from a file, and rows in no
    order would read the whole file for each batch. So its blocks of rows are shuffled first, and then the
    rows of every 16 blocks together (CorgiPile, Xu et al. 2022, section 4, https://arxiv.org/abs/2206.05830).
    Which of the two it is depends on the size only, so that a fit is the same with any amount of memory.

    Args:
        rows: T.
        row_bytes: bytes of a row's features and outcomes.
        generator: random generator.
    """
    device = generator.device
    if rows * row_bytes <= AT_ONCE_BYTES:
        return torch.randperm(rows, generator=generator, device=device)
    blocks = torch.randperm(-(-rows // _BLOCK), generator=generator, device=device)
    order = (blocks.unsqueeze(1) * _BLOCK + torch.arange(_BLOCK, device=device)).flatten()
    buffers = order[order < rows].split(_BLOCK * _BUFFER)
    return torch.cat(
        [part[torch.randperm(len(part), generator=generator, device=device)] for part in buffers]
    )
