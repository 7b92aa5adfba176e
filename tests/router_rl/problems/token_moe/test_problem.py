"""What a token-level problem measures and shows of a small pool."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experts.moe.token_pool import TokenPool
from router_rl.problems.token_moe import problem as token_moe
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from router_rl.problems.token_moe.token_measurement import measure
from router_rl.routing import Hard


@pytest.fixture
def problem(micro_pool: TokenPool, monkeypatch: pytest.MonkeyPatch) -> TokenMoEProblem:
    monkeypatch.setattr(token_moe, "open_pool", lambda options: (micro_pool, micro_pool.domains))
    return TokenMoEProblem()


@pytest.fixture
def routers(problem: TokenMoEProblem) -> LayerRouters:
    """Routers of random weights."""
    tail = problem.pool.tail
    routers = LayerRouters(tail.depth, tail.hidden, Hard(), tail.names)
    with torch.no_grad():
        for parameter in routers.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return routers


def test_the_figure_is_how_the_tokens_of_each_text_divide(
    problem: TokenMoEProblem, routers: LayerRouters
) -> None:
    (figure,) = problem.figures(LayerPolicy(choose=routers.choose, routers=routers), problem.case)
    assert figure.form == "layer_shares"
    assert figure.data["texts"] == figure.data["experts"] == list(problem.experts)
    assert figure.data["layers"] == [1, 2]
    part = problem.pool.parts["test"]
    chosen = measure(problem.pool.tail, part, routers.choose).experts[..., 0]
    for layer, shares in enumerate(figure.data["shares"]):
        for text, found in enumerate(shares):
            own = chosen[layer][part.domain == text].tolist()
            assert found == pytest.approx([own.count(expert) / len(own) for expert in range(3)])
    assert np.ptp(figure.data["shares"], axis=1).max() > 0.1  # texts differ
    assert problem.figures(LayerPolicy(choose=routers.choose), problem.case) == ()
