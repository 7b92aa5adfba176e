"""Nearest class mean, by hand and against scikit-learn's discriminant analysis."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from experts import OutcomeTable
from router_rl import Objective, fit
from router_rl.methods.baselines.centroid import memberships, nearest_mean
from router_rl.problems.routing.problem import RoutingProblem


def test_by_hand() -> None:
    # Centroids (0, 0) and (4, 0); every row is 1 from its own, so 2 s^2 = 2 * (4 * 1) / (4 * 2) = 1.
    x = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [3.0, 0.0], [5.0, 0.0]], dtype=torch.float64)
    member = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    weight, bias = nearest_mean(x, member, shrinkage=0.0, prior=0.0)
    assert weight.tolist() == [[0.0, 0.0], [8.0, 0.0]]  # 2 c
    assert bias.tolist() == [0.0, -16.0]  # -|c|^2
    weight, bias = nearest_mean(x, member, shrinkage=0.5, prior=0.0)
    assert weight[0, 0] / weight[1, 0] == pytest.approx(1 / 3)  # centroids at 1 and 3


def test_gain_weighs_the_mean() -> None:
    x = torch.tensor([[0.0], [3.0], [9.0]], dtype=torch.float64)
    utility = torch.tensor([[1.0, 0.5], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    weight, _ = nearest_mean(x, memberships(utility), shrinkage=0.0, prior=0.0)
    assert weight[1, 0] / weight[0, 0] == pytest.approx(9 / 2)  # (1 * 0 + 2 * 3) / 3 = 2


def test_agrees_with_discriminant_analysis_where_classes_are_round() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice(3, 3000, p=[0.6, 0.3, 0.1])
    x = rng.normal(size=(3000, 2)) + np.array([[0, 0], [2, 0], [0, 2]])[label]
    weight, bias = nearest_mean(torch.tensor(x), torch.eye(3, dtype=torch.float64)[label], 0.0, 1.0)
    found = (torch.tensor(x) @ weight.T + bias).argmax(dim=1).numpy()
    expected = LinearDiscriminantAnalysis().fit(x, label).predict(x)
    assert (found == expected).mean() > 0.99


def test_an_expert_that_is_never_best_is_never_chosen(kinds: OutcomeTable) -> None:
    x = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    member = torch.zeros(200, 3, dtype=torch.float64)
    member[:, 0], member[:, 2] = (x[:, 0] > 0).double(), (x[:, 0] <= 0).double()
    weight, bias = nearest_mean(x, member, shrinkage=0.9, prior=1.0)
    score = x @ weight.T + bias
    assert (score[:, 1] < score[:, [0, 2]].min(dim=1).values).all()
    weight, bias = nearest_mean(x, torch.zeros_like(member), 0.0, 1.0)  # all experts alike
    assert not weight.any()
    assert not bias.any()


def test_is_linear_and_tuned(kinds: OutcomeTable) -> None:
    router = fit("centroid", RoutingProblem(kinds, Objective(compute_weight=0.05)), n_trials=4)
    assert router.spec()["scorer"]["kind"] == "linear"
