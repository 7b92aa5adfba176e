"""Linear bandits: the posterior by hand, what they may see, and the law of a Thompson draw."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import Tensor

from experts import OutcomeTable
from router_rl import Objective, fit
from router_rl.methods.baselines.bandit import Posterior, run_bandit
from router_rl.methods.baselines.linucb import LinUCBHyperparameters
from router_rl.methods.registry import methods_of
from router_rl.problems.routing.problem import RoutingProblem

CPU = torch.device("cpu")


def _slow(
    x: np.ndarray, utility: np.ndarray, seen: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 1's A_e and b_e, one observation after the other, then the inverse and the mean."""
    inverses, means = [], []
    for expert in range(utility.shape[1]):
        a, b = penalty * np.eye(x.shape[1]), np.zeros(x.shape[1])
        for t in np.flatnonzero(seen[:, expert]):
            a += np.outer(x[t], x[t])
            b += utility[t, expert] * x[t]
        inverses.append(np.linalg.inv(a))
        means.append(inverses[-1] @ b)
    return np.stack(inverses), np.stack(means)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("batch", [1, 7, 60])
def test_the_posterior_is_that_of_one_observation_at_a_time(penalty: float, batch: int) -> None:
    rng = np.random.default_rng(0)
    x, utility, seen = rng.normal(size=(60, 5)), rng.normal(size=(60, 3)), rng.random((60, 3)) < 0.4
    posterior = Posterior(3, 5, penalty, CPU)
    for first in range(0, 60, batch):
        part = slice(first, first + batch)
        posterior.update(torch.tensor(x[part]), torch.tensor(seen[part]), torch.tensor(utility[part]))
    inverse, mean = _slow(x, utility, seen, penalty)
    np.testing.assert_allclose(posterior.covariance.numpy(), inverse, atol=1e-10)
    np.testing.assert_allclose(posterior.mean.numpy(), mean, atol=1e-10)
    centre, deviation = posterior.predict(torch.tensor(x[:4]))
    np.testing.assert_allclose(centre.numpy(), x[:4] @ mean.T, atol=1e-10)
    np.testing.assert_allclose(
        deviation.numpy() ** 2, np.einsum("td,nde,te->tn", x[:4], inverse, x[:4]), atol=1e-10
    )


def test_one_observation_by_hand() -> None:
    posterior = Posterior(2, 1, 1.0, CPU)
    one = torch.ones(1, 1, dtype=torch.float64)
    posterior.update(
        2.0 * one, torch.tensor([[True, False]]), torch.tensor([[1.0, 9.0]], dtype=torch.float64)
    )
    # A = 1 + 4, b = 2: theta = 2/5; the other expert has learned nothing.
    assert posterior.mean.flatten().tolist() == pytest.approx([0.4, 0.0])
    assert posterior.covariance.flatten().tolist() == pytest.approx([0.2, 1.0])


@pytest.mark.parametrize("k", [1, 2])
def test_only_chosen_experts_are_seen(k: int) -> None:
    """Where the unchosen outcomes are nonsense, nothing changes; k are seen of every row, passes times."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 3, dtype=torch.float64, generator=generator)
    utility = torch.rand(100, 4, dtype=torch.float64, generator=generator)
    settings = LinUCBHyperparameters(passes=2, batch=16)

    def explore(mean: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
        return torch.tensor([0.0, 2.0, 1.0, -1.0]).expand(len(mean), -1)  # always 1, then 2

    hidden = utility.clone()
    hidden[:, [0, 3] if k == 2 else [0, 2, 3]] = float("nan")
    one, chosen = run_bandit(x, utility, k, settings, explore, seed=0)
    two, _ = run_bandit(x, hidden, k, settings, explore, seed=0)
    assert one.mean.equal(two.mean)
    assert chosen.tolist() == ([0, 200, 0, 0] if k == 1 else [0, 200, 200, 0])


def test_bounds_make_linucb_try_everything() -> None:
    x = torch.ones(400, 1, dtype=torch.float64)
    utility = torch.tensor([[0.5, 0.6, 0.4]], dtype=torch.float64).expand(400, 3)

    def explore(alpha: float):
        return lambda mean, deviation, generator: mean + alpha * deviation

    _, greedy = run_bandit(x, utility, 1, LinUCBHyperparameters(batch=1), explore(0.0), seed=0)
    _, curious = run_bandit(x, utility, 1, LinUCBHyperparameters(batch=1), explore(1.0), seed=0)
    assert greedy.tolist() == [400, 0, 0]  # the first that earned anything is kept
    assert curious.min() > 0
    assert curious.argmax() == 1


def test_a_thompson_score_has_the_law_of_a_drawn_parameter() -> None:
    """`theta~ . x` for theta~ ~ N(mean, v^2 A^-1) has the mean and deviation that scores are drawn with."""
    generator = torch.Generator().manual_seed(0)
    posterior = Posterior(1, 3, 1.0, CPU)
    x = torch.randn(10, 3, dtype=torch.float64, generator=generator)
    posterior.update(x, torch.ones(10, 1, dtype=torch.bool), x.sum(dim=1, keepdim=True))
    root = torch.linalg.cholesky(posterior.covariance[0])
    noise = torch.randn(20_000, 3, dtype=torch.float64, generator=generator)
    drawn = (posterior.mean[0] + 0.5 * noise @ root.T) @ x[0]
    mean, deviation = posterior.predict(x[:1])
    assert float(drawn.mean()) == pytest.approx(float(mean), abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.5 * float(deviation), rel=0.03)


@pytest.mark.parametrize("method", ["linucb", "thompson"])
def test_is_greedy_and_linear_afterwards(kinds: OutcomeTable, method: str) -> None:
    router = fit(method, RoutingProblem(kinds, Objective(compute_weight=0.05)))
    assert router.spec()["scorer"]["kind"] == "linear"
    assert not router.stochastic
    other = fit(method, RoutingProblem(kinds, Objective(compute_weight=0.05)), seed=1)
    assert not torch.equal(router.scorer.weight, other.scorer.weight)  # type: ignore[arg-type]


def test_without_exploration_both_are_the_same_bandit(kinds: OutcomeTable) -> None:
    objective = Objective(compute_weight=0.05)
    still = fit("linucb", RoutingProblem(kinds, objective), hyperparameters={"alpha": 0.0})
    cold, warm = (
        fit("thompson", RoutingProblem(kinds, objective), hyperparameters={"v": v}) for v in (0.0, 1.0)
    )
    for name, value in still.state_dict().items():
        assert value.equal(cold.state_dict()[name])
    assert not still.scorer.weight.equal(warm.scorer.weight)  # type: ignore[arg-type]


def test_six_thousand_queries_take_seconds() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6000, 65, dtype=torch.float64, generator=generator)
    utility = torch.rand(6000, 8, dtype=torch.float64, generator=generator)
    began = time.perf_counter()
    run_bandit(
        x, utility, 1, LinUCBHyperparameters(), lambda mean, deviation, generator: mean + deviation, seed=0
    )
    assert time.perf_counter() - began < 5.0


def test_bandits_stand_in_every_comparison_under_bandit_feedback(kinds: OutcomeTable) -> None:
    full, bandit = (
        {method.name for method in methods_of(RoutingProblem(kinds, Objective(), feedback=feedback), [])}
        for feedback in ("full", "bandit")
    )
    assert bandit - full == {"linucb", "thompson"}
    assert {"knn", "kernel", "cluster", "guarded_knn", "ridge", "boosted_trees"} <= full <= bandit
