"""The price of load is the derivative of what a window will be charged."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from experts import OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.methods.agents import exact_pg
from router_rl.methods.agents.exact_pg import ExactPGHyperparameters, load_price
from router_rl.methods.agents.expectation import RewardTable
from router_rl.methods.agents.rollout import Trajectory
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.router_measurement import measure
from router_rl.routing import Hard, Router

N, W = 3, 8
SHARE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
COUNTS = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)


def _window_load(counts: Tensor) -> Tensor:
    """W times the load of a whole window: `N sum n^2 / W - W`."""
    return N * counts.square().sum() / W - W


def test_the_price_is_the_finite_difference_of_the_windows_load() -> None:
    left = W - COUNTS.sum() - 1.0
    step = 1e-6
    marginal = torch.stack(
        [
            (_window_load(COUNTS + left * SHARE + step * one) - _window_load(COUNTS + left * SHARE)) / step
            for one in torch.eye(N, dtype=torch.float64)
        ]
    )
    static = 2.0 * N * (1.0 - 1.0 / W) * SHARE  # the gradient of N (1 - 1/W) sum P^2
    torch.testing.assert_close(static + load_price(COUNTS, SHARE, W), marginal, atol=1e-4, rtol=0.0)


def test_counts_on_their_mean_cost_nothing_more() -> None:
    assert load_price(4.0 * SHARE, SHARE, W).abs().max() < 1e-12
    price = load_price(COUNTS, SHARE, W)
    assert price.argmax() == 0  # 2 of 3 where half is usual
    assert price.argmin() == 2


def test_a_policy_that_sees_nothing_is_charged_its_static_load() -> None:
    window = 5
    load = torch.zeros((), dtype=torch.float64)
    for drawn in itertools.product(range(N), repeat=window):
        counts = torch.bincount(torch.tensor(drawn), minlength=N).double()
        chance = SHARE[list(drawn)].prod()
        load += chance * (N * (counts / window).square().sum() - 1.0)
    # N (1 - 1/W) sum P^2 and what does not depend on the policy, (N - W) / W.
    static = N * (1.0 - 1.0 / window) * SHARE.square().sum() + N / window - 1.0
    torch.testing.assert_close(load, static)


@pytest.mark.parametrize("load_weight", [0.0, 0.1])
def test_it_learns_a_table_whose_answer_is_known(kinds: OutcomeTable, load_weight: float) -> None:
    objective = Objective(compute_weight=0.1, load_weight=load_weight, window=32)
    task = RoutingProblem(kinds, objective, Hard())
    settings = exact_pg.ExactPGHyperparameters(epochs=30, decisions=100_000)
    router = exact_pg.fit(task, settings, Run())
    found = measure(router, kinds.part("test"), objective, task.scale).means()
    assert found["quality"] > 0.95


def _linear(table: OutcomeTable, **objective: Any) -> tuple[RoutingProblem, Router]:
    """A problem, and a router of random weights that observes the load where load is charged."""
    problem = RoutingProblem(
        table, Objective(compute_weight=0.1, **objective), Hard(), scorer=ScorerConfig(kind="linear")
    )
    router = problem.new_router(0, observe_load=problem.observe_load)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.normal_(generator=generator)
    return problem, router


def _windows(problem: RoutingProblem, router: Router, counts: Tensor) -> tuple[Trajectory, Tensor, Tensor]:
    """Decisions whose shares are the policy's probabilities; those [T, N]; and their utilities [T, N]."""
    row = torch.arange(len(counts))
    outcomes = problem.outcomes()
    logits = router.scores(outcomes.features[row], counts / problem.objective.window)
    p = logits.softmax(dim=-1)
    rest = torch.zeros(1, len(counts))
    trajectory = Trajectory(
        row=row.unsqueeze(0),
        counts=(counts / problem.objective.window).unsqueeze(0),
        action=rest.long().unsqueeze(-1),
        share=p.detach().unsqueeze(0),
        log_prob=rest,
        reward=rest,
        last=rest.bool(),
    )
    return trajectory, p, RewardTable(outcomes, problem.objective.compute_weight).rows(row)


def _weight_gradient(value: Tensor, router: Router) -> Tensor:
    return torch.autograd.grad(value, list(router.parameters()), retain_graph=True)[0]


def test_neither_static_nor_dynamic_load_is_left_out(
    kinds: OutcomeTable, ascended: Callable[..., list[Tensor]]
) -> None:
    """The gradient is that of the marginal load of a window, `2 N (n + (W - t - 1) P) / W` an expert."""
    weight, window = 0.3, 8
    problem, router = _linear(kinds, load_weight=weight, window=window)
    counts = torch.tensor([[0, 0, 0, 0], [1, 0, 2, 0], [0, 1, 0, 0], [4, 0, 0, 3]]).float()
    trajectory, p, utility = _windows(problem, router, counts)
    (value,) = ascended(exact_pg, problem, ExactPGHyperparameters(batch=4), router, trajectory)
    left = window - counts.sum(dim=1, keepdim=True) - 1.0
    marginal = 2.0 * 4 / window * (counts + left * p.detach().mean(dim=0))
    expected = (p * (utility - weight * marginal)).sum(dim=-1).mean()
    torch.testing.assert_close(_weight_gradient(value, router), _weight_gradient(expected, router))


def test_static_load_is_charged_where_counts_are_on_their_mean(
    kinds: OutcomeTable, ascended: Callable[..., list[Tensor]]
) -> None:
    weight, window = 0.3, 8
    problem, router = _linear(kinds, load_weight=weight, window=window)
    trajectory, p, utility = _windows(problem, router, torch.zeros(5, 4))  # windows begin: the price is 0
    (value,) = ascended(exact_pg, problem, ExactPGHyperparameters(batch=5), router, trajectory)
    load = 4 * (1.0 - 1.0 / window) * p.mean(dim=0).square().sum()
    torch.testing.assert_close(value, (p * utility).sum(dim=-1).mean() - weight * load)


def test_the_entropy_bonus_under_load_is_added_not_subtracted(
    kinds: OutcomeTable, ascended: Callable[..., list[Tensor]]
) -> None:
    problem, router = _linear(kinds, load_weight=0.3, window=8)
    trajectory, p, _ = _windows(problem, router, torch.ones(5, 4))
    settings = ExactPGHyperparameters(batch=5)
    (without,) = ascended(exact_pg, problem, settings, router, trajectory, entropy=0.0)
    (bonus,) = ascended(exact_pg, problem, settings, router, trajectory, entropy=0.5)
    torch.testing.assert_close(bonus - without, -0.5 * (p * p.log()).sum(dim=-1).mean())


def _losses(problem: RoutingProblem, router: Router, *entropies: float) -> list[Tensor]:
    """The loss that `exact_pg` minimizes on the first five rows, for each entropy bonus."""
    found: list[Tensor] = []

    def watch(problem: RoutingProblem, settings: Any, run: Run, loss: Any, **_: Any) -> None:
        found.append(loss(router, problem.outcomes(), torch.arange(5), torch.Generator()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_pg, "train_gate", watch)
        for entropy in entropies:
            exact_pg.fit(problem, ExactPGHyperparameters(entropy=entropy), Run())
    return found


def test_the_entropy_bonus_of_minibatches_lowers_the_loss(kinds: OutcomeTable) -> None:
    problem, router = _linear(kinds)
    without, bonus = _losses(problem, router, 0.0, 0.5)
    row = torch.arange(5)
    p = router.scores(problem.outcomes().features[row]).softmax(dim=-1)
    utility = RewardTable(problem.outcomes(), 0.1).rows(row)
    torch.testing.assert_close(without, -(p * utility).sum(dim=-1).mean())
    torch.testing.assert_close(bonus - without, 0.5 * (p * p.log()).sum(dim=-1).mean())


def test_the_entropy_bonus_within_a_budget_lowers_the_loss(kinds: OutcomeTable) -> None:
    problem, router = _linear(kinds, budget=0.5)
    without, bonus = _losses(problem, router, 0.0, 0.5)
    p = router.scores(problem.outcomes().features[:5]).softmax(dim=-1)
    torch.testing.assert_close(bonus - without, 0.5 * (p * p.log()).sum(dim=-1).mean())


def test_within_a_budget_compute_has_the_price_of_the_multiplier(kinds: OutcomeTable) -> None:
    problem, router = _linear(kinds, budget=0.5)
    (loss,) = _losses(problem, router, 0.0)
    outcomes = problem.outcomes()
    p = router.scores(outcomes.features[:5]).softmax(dim=-1)
    quality, compute = ((p * part[:5]).sum(dim=-1).mean() for part in (outcomes.quality, outcomes.compute))
    ratio = compute.detach() / 0.5
    # The controller starts at a multiplier of 0.1 * 0.5; its gains are 0.05 and 0.002, and nothing rose yet.
    multiplier = (0.05 * (ratio - 1.0) + 0.05 + 0.002 * (ratio - 1.0)) / 0.5
    torch.testing.assert_close(loss, multiplier * compute - quality)
