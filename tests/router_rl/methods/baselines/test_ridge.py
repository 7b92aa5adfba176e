"""Ridge against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from experts import OutcomeTable
from router_rl import Objective
from router_rl.methods.baselines import ridge
from router_rl.methods.baselines.ridge import (
    RidgeHyperparameters,
    lifted_weights,
    solve_ridge,
    solve_ridges,
)
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard, Hierarchical, Soft, TopK


@pytest.mark.parametrize("penalty", [1e-4, 0.1, 10.0])
def test_equals_scikit_learn(penalty: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)) + 3.0, rng.normal(size=(50, 3))
    weight, bias = solve_ridge(torch.tensor(x), torch.tensor(y), penalty)
    expected = Ridge(alpha=penalty * len(x)).fit(x, y)
    np.testing.assert_allclose(weight.numpy(), expected.coef_, atol=1e-8)
    np.testing.assert_allclose(bias.numpy(), expected.intercept_, atol=1e-8)


def test_one_decomposition_serves_every_penalty() -> None:
    """More features than rows, one of them repeated, one that never varies: each penalty by the slow way."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(30, 50)))
    x[:, 3], x[:, 4] = x[:, 0], 2.0
    y = torch.from_numpy(rng.normal(size=(30, 2)))
    penalties = (1e-4, 0.1, 3.0)
    centred = x - x.mean(dim=0)
    for penalty, (weight, bias) in zip(penalties, solve_ridges(x, y, penalties), strict=True):
        gram = centred.T @ centred / 30 + penalty * torch.eye(50)
        slow = torch.linalg.solve(gram, centred.T @ (y - y.mean(dim=0)) / 30).T
        torch.testing.assert_close(weight, slow)
        torch.testing.assert_close(bias, y.mean(dim=0) - slow @ x.mean(dim=0))
    least, _ = solve_ridge(x, y, 0.0)
    assert least[:, 4].abs().max() < 1e-12
    torch.testing.assert_close(least[:, 3], least[:, 0])


def test_a_feature_that_never_varies_gets_no_weight() -> None:
    x = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    weight, bias = solve_ridge(x, 2 * x[:, :1] + 1, 0.0)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(bias, torch.tensor([1.0], dtype=torch.float64))


def test_lifted_weights() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    weight, bias = torch.randn(2, 3, dtype=torch.float64, generator=generator), torch.ones(2).double()
    same, shift = lifted_weights(TopK(k=2), x, weight, bias, temperature=0.0)
    assert same.equal(weight)
    assert shift.equal(bias)
    sharp, _ = lifted_weights(Soft(k=2), x, weight, bias, temperature=0.0)
    assert sharp.equal(10 * weight)
    flat, shift = lifted_weights(Hierarchical(tree=("root", (1, 0))), x, weight, bias, temperature=1.0)
    torch.testing.assert_close(flat, weight.flip(0))  # branches stand in the tree's order
    # The group's logit is the least-squares fit of the better expert; the leaves below it stay exact.
    tree = Hierarchical(tree=("root", (("both", (0, 1)), 2)))
    three = torch.cat([weight, weight[:1]]), torch.cat([bias, bias[:1]])
    lifted, shift = lifted_weights(tree, x, *three, temperature=0.0)
    fitted = x @ lifted.T + shift
    torch.testing.assert_close(fitted[:, 2:], x @ weight.T + bias, atol=1e-4, rtol=1e-4)
    error = fitted[:, 0] - (x @ weight.T + bias).amax(dim=1)
    assert float(error.mean()) == pytest.approx(0.0, abs=1e-9)
    assert float((x.T @ error).abs().max()) < 1e-3


@pytest.mark.parametrize("part", [50, 1_000])
def test_a_table_summed_in_parts_has_the_router_of_the_whole(
    kinds: OutcomeTable, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = RoutingProblem(kinds, Objective(compute_weight=0.05), Hard())
    whole = ridge.fit(problem, RidgeHyperparameters(), Run())
    monkeypatch.setattr(ridge, "_AT_ONCE", 100)
    monkeypatch.setattr(ridge, "_PART", part)
    in_parts = ridge.fit(problem, RidgeHyperparameters(), Run())
    torch.testing.assert_close(in_parts.state_dict(), whole.state_dict(), atol=1e-6, rtol=1e-5)
