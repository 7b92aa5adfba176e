"""Weighted logistic regression: by hand, against scikit-learn, and its stationarity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from experts.training.logistic import fit_logistic, logistic_log_probabilities


def test_an_intercept_alone_gives_the_weighted_frequencies():
    x = torch.zeros(3, 1, dtype=torch.float64)
    targets = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.25, 0.25]], dtype=torch.float64)  # 2.25 to 0.75
    weights = fit_logistic(x, targets, torch.zeros(2, 2, dtype=torch.float64))
    assert float(weights[0, 1] - weights[1, 1]) == pytest.approx(math.log(3))


@pytest.mark.parametrize("classes", [2, 4])
def test_equals_scikit_learn(classes):
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(120, 3))
    y = np.arange(120) % classes
    weight = rng.random(120)
    targets = torch.eye(classes, dtype=torch.float64)[y] * torch.tensor(weight)[:, None]
    start = torch.zeros(classes, 4, dtype=torch.float64)
    found = fit_logistic(torch.tensor(x), targets, start, ridge=0.5).numpy()
    theirs = LogisticRegression(C=2.0, tol=1e-10, max_iter=5000)
    p = theirs.fit(x, y, sample_weight=weight).predict_proba(x)
    ours = logistic_log_probabilities(torch.tensor(x), torch.tensor(found)).exp().numpy()
    # scikit-learn has one weight vector for two classes, which is penalised half as much as our two.
    if classes > 2:
        np.testing.assert_allclose(ours, p, atol=1e-6)
    else:
        np.testing.assert_allclose(found[0], -found[1], atol=1e-6)


def test_the_gradient_vanishes_at_the_maximum():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=generator, dtype=torch.float64)
    targets = torch.rand(50, 3, generator=generator, dtype=torch.float64)
    start = torch.zeros(3, 3, dtype=torch.float64)
    weights = fit_logistic(x, targets, start).requires_grad_()
    (targets * logistic_log_probabilities(x, weights)).sum().backward()
    assert float(weights.grad.abs().max()) < 1e-5


def test_separable_targets_end_with_finite_weights():
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    weights = fit_logistic(x, torch.eye(2, dtype=torch.float64), torch.zeros(2, 2, dtype=torch.float64))
    assert weights.isfinite().all()
    assert logistic_log_probabilities(x, weights).diagonal().exp().min() > 0.999
