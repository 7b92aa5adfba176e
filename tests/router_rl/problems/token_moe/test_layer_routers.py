"""Linear routers of the layers: their selection rules, and one more logit for "no expert"."""

from __future__ import annotations

import torch

from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import TopK


def _routers() -> LayerRouters:
    routers = LayerRouters(2, 4, TopK(k=2), ("a", "b", "c"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in routers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return routers


def test_the_logit_of_no_expert_starts_at_zero() -> None:
    routers, x = _routers(), torch.randn(5, 4)
    for layer in range(2):
        found = routers.with_no_expert(2).logits(layer, x)
        torch.testing.assert_close(found[:, :3], routers.logits(layer, x))
        assert found[:, 3].eq(0.0).all()
