"""Arrow routing finds the expert whose weights changed in a token's direction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experts.moe.token_pool import TokenPool
from router_rl import TokenMoEProblem
from router_rl.methods.method import NoHyperparameters, Run
from router_rl.methods.token_moe.arrow import METHOD, arrow_directions


@pytest.fixture(scope="module")
def changed(micro_pool: TokenPool) -> tuple[TokenPool, torch.Tensor]:
    """Return a pool whose expert e differs from the base along a direction of its own, and the directions."""
    base, tail = micro_pool.base, micro_pool.tail
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(tail.hidden, 2, generator=generator)).Q.T  # [2, H]
    experts = {"same": base.dense()}
    for name, direction in zip(("first", "second"), directions, strict=True):
        experts[name] = [
            {
                **layer,
                "up_proj": layer["up_proj"] + torch.outer(torch.ones(len(layer["up_proj"])), direction),
            }
            for layer in base.dense()
        ]
    return replace(micro_pool, tail=base.tail(experts), domains=()), directions


def test_the_direction_is_that_of_the_change(changed: tuple[TokenPool, torch.Tensor]) -> None:
    pool, directions = changed
    found = arrow_directions(pool)
    for layer in found:
        assert not layer[0].any()  # it did not change
        torch.testing.assert_close((layer[1:] * directions).sum(dim=-1).abs(), torch.ones(2))


@pytest.mark.parametrize("k", [1, 2])
def test_a_token_gets_the_expert_of_its_direction(changed: tuple[TokenPool, torch.Tensor], k: int) -> None:
    pool, directions = changed
    problem = TokenMoEProblem(length=8, train=6, validation=4, test=6, experts_per_token=k)
    problem.pool = pool
    choose = METHOD.fit(problem, NoHyperparameters(), Run()).choose
    tokens = torch.stack([-3.0 * directions[0] + directions[1], 2.0 * directions[1]])
    experts, weights = choose(0, tokens)
    assert experts[:, 0].tolist() == [1, 2]  # the sign has no effect
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2))
    if k == 2:
        torch.testing.assert_close(weights[0], torch.tensor([3.0, 1.0]).softmax(dim=0))
