"""Estimates from a log: by hand, without bias by enumeration, and intervals that cover what they say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import t

from experts import InputError
from router_rl.problems.off_policy import OffPolicy, off_policy

EXPERTS = ("red", "green", "blue")
LOGS = 300  # of the simulation of small samples


def test_by_hand() -> None:
    # Weights 1/.5, 0, .5/.25, .5/.5 = 2, 0, 2, 1 of rewards 1, 1, 0, 1.
    found = off_policy(
        np.ones((4, 1)),
        np.array([0, 0, 1, 1]),
        np.array([0.5, 0.5, 0.25, 0.5]),
        np.array([1.0, 1.0, 0.0, 1.0]),
        np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.5, 0.5]]),
        EXPERTS[:2],
    )
    assert found.ips.mean == pytest.approx((2 + 0 + 0 + 1) / 4)
    assert found.snips.mean == pytest.approx(3 / 5)
    assert found.effective_sample_size == pytest.approx(5**2 / (4 + 4 + 1))
    # IPS: values 2, 0, 0, 1 have the sample variance 11/12, so the standard error is sqrt(11/48). The
    # kurtosis of four values is below 3, so the degrees of freedom are 3.
    quantile = 3.182446
    assert found.ips.high - found.ips.mean == pytest.approx(quantile * (11 / 48) ** 0.5)
    # SNIPS: influence 2 (.4), 0, 2 (-.6), 1 (.4) over 5/4 is .64, 0, -.96, .32, divided by 1 less the shares
    # 2/5, 0, 2/5, 1/5 of the weights.
    spread = np.array([0.64 / 0.6, 0.0, -0.96 / 0.6, 0.32 / 0.8]).std(ddof=1) / 2
    assert found.snips.high - found.snips.mean == pytest.approx(quantile * spread)
    assert found.snips.mean - found.snips.low == pytest.approx(quantile * spread)
    # DR: each row's fold is itself; an expert is worth the mean of its outcomes on the other three rows,
    # (1, .5), (1, .5), (1, 1) and (1, 0).
    values = [1.0 + 2 * (1 - 1.0), 0.5, 1.0 + 2 * (0 - 1.0), 0.5 + 1 * (1 - 0.0)]
    assert found.dr.mean == pytest.approx(np.mean(values))
    assert found.logged.mean == pytest.approx(3 / 4)
    change = np.array(values) - np.array([1.0, 1.0, 0.0, 1.0])
    assert found.difference.mean == pytest.approx(change.mean())
    margin = quantile * change.std(ddof=1) / 2
    assert found.difference.high - found.difference.mean == pytest.approx(margin)
    assert len(found.warnings) == 1
    assert "the effective sample size is 3" in found.warnings[0]


def test_one_large_weight_leaves_few_degrees_of_freedom() -> None:
    # One of ten influence values is 1, the others 0: the kurtosis is (1 - .27) / .09.
    freedom = 2 / (2 / 9 + (0.73 / 0.09 - 3) / 10)
    found = off_policy(
        np.ones((10, 1)),
        np.array([0] + [1] * 9),
        np.ones(10),
        np.ones(10),
        np.tile([1.0, 0.0], (10, 1)),
        EXPERTS[:2],
    )
    assert found.ips.high - found.ips.mean == pytest.approx(t.ppf(0.975, freedom) * (0.09 / 9) ** 0.5)
    assert found.snips.low == found.snips.high == 1.0  # all of the weight is in one decision


def test_small_effective_samples_cover_the_truth() -> None:
    """The router takes what the log explored rarely; normal intervals would be too narrow."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 2_000)
    features = np.eye(2)[kind] + rng.normal(0, 0.5, (2_000, 2))
    utility = (rng.random((2_000, 2)) < np.where(np.eye(2, dtype=bool)[kind], 0.8, 0.5)).astype(float)
    policy = np.array([0.9, 0.1])
    target = np.eye(2)[(features[:, 1] > 0.2).astype(int)]
    truth = float((target * utility).sum(axis=1).mean())
    covered, sizes = {"ips": 0, "snips": 0, "dr": 0}, list[float]()
    for _ in range(LOGS):
        row = rng.integers(0, 2_000, 200)
        action = (rng.random(200) >= policy[0]).astype(int)
        found = off_policy(
            features[row], action, policy[action], utility[row, action], target[row], EXPERTS[:2]
        )
        sizes.append(found.effective_sample_size)
        for name in covered:
            low, high = getattr(found, name).low, getattr(found, name).high
            covered[name] += low <= truth <= high
    assert 25 < np.mean(sizes) < 35
    for name, times in covered.items():
        assert 0.93 <= times / LOGS <= 0.98, (name, times)


def test_logging_and_target_alike_give_the_mean() -> None:
    rng = np.random.default_rng(0)
    action, reward = rng.integers(0, 3, 200), rng.random(200)
    even = np.full((200, 3), 1 / 3)
    found = off_policy(rng.normal(size=(200, 2)), action, even[:, 0], reward, even, EXPERTS)
    assert found.ips.mean == pytest.approx(reward.mean())
    assert found.snips.mean == pytest.approx(reward.mean())
    assert found.effective_sample_size == pytest.approx(200)
    assert not found.warnings


def test_ips_and_dr_have_no_bias() -> None:
    """The mean over every log that could have been drawn, weighted by its probability, is the truth."""
    rng = np.random.default_rng(0)
    rows, experts = 4, 3
    utility, features = rng.random((rows, experts)), rng.normal(size=(rows, 2))
    policy, target = rng.dirichlet(np.ones(experts), rows), rng.dirichlet(np.ones(experts), rows)
    ips = dr = total = 0.0
    for drawn in product(range(experts), repeat=rows):
        action, row = np.array(drawn), np.arange(rows)
        chance = policy[row, action]
        found = off_policy(features, action, chance, utility[row, action], target, EXPERTS)
        ips += chance.prod() * found.ips.mean
        dr += chance.prod() * found.dr.mean
        total += chance.prod()
    truth = (target * utility).sum(axis=1).mean()
    assert total == pytest.approx(1.0)
    assert ips == pytest.approx(truth)
    assert dr == pytest.approx(truth)


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """Of 1,200 logs of queries drawn from a table, each kind of interval covers the value in about 95%."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 2_000)
    features = np.eye(3)[kind] + rng.normal(0, 0.5, (2_000, 3))
    utility = (rng.random((2_000, 3)) < np.where(np.eye(3, dtype=bool)[kind], 0.9, 0.4)).astype(float)
    policy = 0.6 / 3 + 0.4 * np.eye(3)[features.argmin(axis=1)]  # the log prefers the wrong expert
    target = np.eye(3)[features.argmax(axis=1)]
    truth = float((target * utility).sum(axis=1).mean())
    covered = {"ips": 0, "snips": 0, "dr": 0}
    widths = dict.fromkeys(covered, 0.0)
    for _ in range(1_200):
        row = rng.integers(0, 2_000, 1_200)
        action = (policy[row].cumsum(axis=1) <= rng.random((1_200, 1))).sum(axis=1)
        chance = policy[row, action]
        found = off_policy(features[row], action, chance, utility[row, action], target[row], EXPERTS)
        for name in covered:
            low, high = getattr(found, name).low, getattr(found, name).high
            covered[name] += low <= truth <= high
            widths[name] += (high - low) / 1_200
    for name, times in covered.items():
        assert 0.92 <= times / 1_200 <= 0.98, (name, times)
    assert max(widths["dr"], widths["snips"]) < widths["ips"]


def test_what_the_log_never_tried_is_said() -> None:
    target = np.eye(3)[[0, 2, 0, 2]]
    half = np.full(4, 0.5)
    found = off_policy(np.ones((4, 1)), np.array([0, 1, 0, 1]), half, np.ones(4), target, EXPERTS)
    assert found.warnings[0] == (
        "the router sends 50.0% of the queries to blue, which the log never selected: its outcomes are "
        "unknown"
    )
    assert found.to_json()["warnings"] == list(found.warnings)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.5, float("nan")])
def test_a_propensity_is_a_probability(value: float) -> None:
    with pytest.raises(InputError, match=r"propensity=.*row 1 is outside \(0, 1\]"):
        _run(propensity=np.array([0.5, value]))


def test_a_log_without_the_targets_decisions_is_refused() -> None:
    with pytest.raises(InputError, match="never takes the logged decision"):
        _run(target=np.eye(3)[[2, 2]])
    with pytest.raises(InputError, match="too short"):
        off_policy(np.ones((1, 1)), np.zeros(1, int), np.ones(1), np.ones(1), np.eye(3)[[0]], EXPERTS)


def _run(propensity: np.ndarray | None = None, target: np.ndarray | None = None) -> OffPolicy:
    return off_policy(
        np.ones((2, 1)),
        np.array([0, 1]),
        np.full(2, 0.5) if propensity is None else propensity,
        np.ones(2),
        np.eye(3)[[0, 1]] if target is None else target,
        EXPERTS,
    )
