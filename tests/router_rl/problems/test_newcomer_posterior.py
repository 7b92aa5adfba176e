"""The posterior of a new expert, and the evidence, against a dense normal distribution of the outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from router_rl.problems.newcomer_posterior import posterior, region_means, uncertainty
from router_rl.problems.newcomer_prior import (
    PriorVariances,
    covariates,
    estimated_variances,
    log_evidence,
)

VARIANCES = PriorVariances(slope=0.02, level=0.3, region=0.05, deviations=0.4, noise=0.12)


def made(rows: int, experts: int = 5, regions: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return outcomes [T, N + 1] of experts whose skill differs by region, and regions [T]."""
    rng = np.random.default_rng(0)
    difficulty, region = rng.normal(size=(rows, 1)), np.arange(rows) % regions
    skill = (rng.normal(size=experts + 1) + rng.normal(size=(regions, experts + 1)))[region]
    return (difficulty + rng.normal(size=(rows, experts + 1)) < skill).astype(float), region


@pytest.mark.parametrize("probes", [1, 7, 60])
def test_equals_conditioning_of_the_joint_distribution(probes: int) -> None:
    outcomes, region = made(90)
    x = covariates(outcomes[:, :-1], region, 3)
    means = region_means(x, region, 3)
    rows = np.random.default_rng(1).permutation(90)[:probes]
    y = outcomes[rows, -1]
    known = posterior(x[rows], y, VARIANCES, 3)

    prior = np.diag(VARIANCES.of_coefficients(3, 5))
    start = np.eye(len(prior))[0]
    observed = x[rows] @ prior @ x[rows].T + VARIANCES.noise * np.eye(probes)
    gain = means @ prior @ x[rows].T @ np.linalg.inv(observed)
    expected = means @ start + gain @ (y - x[rows] @ start)
    covariance = means @ prior @ means.T - gain @ x[rows] @ prior @ means.T
    np.testing.assert_allclose(means @ known.mean, expected, atol=1e-10)
    np.testing.assert_allclose(uncertainty(means, known) ** 2, np.diag(covariance), atol=1e-10)
    density = multivariate_normal(x[rows] @ start, observed).logpdf(y)
    assert log_evidence(VARIANCES, x[rows], y, 3) == pytest.approx(density, abs=1e-8)


def test_without_probes_is_the_prior() -> None:
    outcomes, region = made(30)
    x = covariates(outcomes[:, :-1], region, 3)
    known = posterior(x[:0], np.empty(0), VARIANCES, 3)
    np.testing.assert_allclose(x @ known.mean, outcomes[:, :-1].mean(axis=1), atol=1e-12)
    np.testing.assert_allclose(np.diag(known.covariance), VARIANCES.of_coefficients(3, 5))


def test_the_variances_maximise_the_evidence_of_the_existing_experts() -> None:
    outcomes, region = made(300)
    found = estimated_variances(outcomes, region, 3)

    def total(variances: PriorVariances) -> float:
        parts = []
        for expert in range(outcomes.shape[1]):
            x = covariates(np.delete(outcomes, expert, axis=1), region, 3)
            parts.append(log_evidence(variances, x, outcomes[:, expert], 3))
        return sum(parts)

    best = total(found)
    for name in ("slope", "level", "region", "deviations", "noise"):
        for factor in (0.7, 1.4):
            other = PriorVariances(
                **{
                    each: getattr(found, each) * (factor if each == name else 1.0)
                    for each in PriorVariances.__dataclass_fields__
                }
            )
            assert total(other) < best + 1e-2, (name, factor)


def test_a_region_without_rows_has_the_mean_of_all() -> None:
    x = np.array([[1.0, 0.0], [3.0, 1.0], [5.0, 2.0]])
    expected = [[2.0, 0.5], [3.0, 1.0], [5.0, 2.0]]
    np.testing.assert_allclose(region_means(x, np.array([0, 0, 2]), 3), expected)
