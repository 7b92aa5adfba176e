"""Ridge against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from router_rl.baselines.ridge import solve_ridge


@pytest.mark.parametrize("penalty", [1e-4, 0.1, 10.0])
def test_equals_scikit_learn(penalty: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 4)) + 3.0, rng.normal(size=(50, 3))
    weight, bias = solve_ridge(torch.tensor(x), torch.tensor(y), penalty)
    expected = Ridge(alpha=penalty * len(x)).fit(x, y)
    np.testing.assert_allclose(weight.numpy(), expected.coef_, atol=1e-8)
    np.testing.assert_allclose(bias.numpy(), expected.intercept_, atol=1e-8)


def test_a_feature_that_never_varies_gets_no_weight() -> None:
    x = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    weight, bias = solve_ridge(x, 2 * x[:, :1] + 1, 0.0)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 0.0]], dtype=torch.float64))
    torch.testing.assert_close(bias, torch.tensor([1.0], dtype=torch.float64))
