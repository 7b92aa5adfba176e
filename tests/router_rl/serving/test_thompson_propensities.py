"""Propensities of Thompson sampling: against samples and adaptive quadrature, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from router_rl.serving.thompson_propensities import thompson_propensities


def sampled(mean: np.ndarray, deviation: np.ndarray, may: np.ndarray, draws: int) -> np.ndarray:
    """The slow twin: draw utilities, and count who is the best."""
    utility = np.random.default_rng(0).normal(mean, deviation, (draws, len(mean)))
    best = np.where(may, utility, -np.inf).argmax(axis=1)
    return np.bincount(best, minlength=len(mean)) / draws


@pytest.mark.parametrize("experts", [2, 3, 7, 27])
def test_they_are_the_frequencies_of_samples(experts: int) -> None:
    rng = np.random.default_rng(experts)
    for _ in range(5):
        mean, deviation = rng.normal(0.5, 0.2, experts), 10.0 ** rng.uniform(-3, 1, experts)
        deviation[rng.random(experts) < 0.2] = 0.0
        may = rng.random(experts) < 0.8
        may[0] = True
        found = thompson_propensities(mean, deviation, may.tolist())
        assert found.sum() == pytest.approx(1.0)
        assert (found[~may] == 0.0).all()
        expected = sampled(mean, deviation, may, 40_000)
        error = 4.0 * np.sqrt(expected * (1.0 - expected) / 40_000) + 2e-3
        assert (np.abs(found - expected) < error).all()


def test_they_are_the_integral() -> None:
    mean, deviation = np.array([0.2, 0.5, 0.45]), np.array([0.3, 0.1, 0.02])

    def density(u: float, expert: int) -> float:
        others = [norm.cdf(u, mean[j], deviation[j]) for j in range(3) if j != expert]
        return float(np.prod(others) * norm.pdf(u, mean[expert], deviation[expert]))

    expected = [quad(density, -2.0, 3.0, (expert,), points=mean, limit=200)[0] for expert in range(3)]
    assert thompson_propensities(mean, deviation, [True] * 3) == pytest.approx(expected, abs=2e-4)


def test_two_experts_have_a_closed_form() -> None:
    expected = norm.cdf((0.3 - 0.1) / np.hypot(0.2, 0.4))
    found = thompson_propensities(np.array([0.3, 0.1]), np.array([0.2, 0.4]), [True, True])
    assert found[0] == pytest.approx(expected, abs=1e-4)


def test_the_edges() -> None:
    one, two = np.ones(1), np.ones(2)
    assert thompson_propensities(one, one, [True]).tolist() == [1.0]
    assert thompson_propensities(two, two, [False, True]).tolist() == [0.0, 1.0]
    assert thompson_propensities(two, two, [True, True]) == pytest.approx([0.5, 0.5])
    # Without variance the best is certain, and ties go to the lowest id.
    nothing = np.zeros(3)
    assert thompson_propensities(np.array([0.1, 0.4, 0.4]), nothing, [True] * 3).tolist() == [0.0, 1.0, 0.0]
    # One expert without variance at the median of another: each is the best half of the time.
    half = thompson_propensities(np.array([0.4, 0.4, 0.3]), np.array([0.0, 0.1, 0.0]), [True] * 3)
    assert half == pytest.approx([0.5, 0.5, 0.0])
    # Equal experts, many of them, have equal probabilities.
    many = thompson_propensities(np.full(60, 0.5), np.full(60, 0.2), [True] * 60)
    assert many == pytest.approx(np.full(60, 1 / 60))
    # Far apart, and of very different widths.
    far = thompson_propensities(np.array([0.0, 100.0, -5.0]), np.array([1e-6, 1e-3, 50.0]), [True] * 3)
    assert far.sum() == pytest.approx(1.0)
    assert far[2] == pytest.approx(norm.sf((100.0 + 5.0) / 50.0), abs=2e-4)
