"""The log-softmax is torch's, whatever the width and the shape."""

from __future__ import annotations

import pytest
import torch

from router_rl.routing.selection.log_softmax import log_softmax


@pytest.mark.parametrize(
    "shape", [(7, 1), (7, 8), (7, 15), (7, 16), (7, 17), (3, 7, 5), (3, 7, 20), (4,), (0, 3)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_log_of_the_softmax_of_each_row(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = (5.0 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    found = log_softmax(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.float().softmax(dim=-1).log())
