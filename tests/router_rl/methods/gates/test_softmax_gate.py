"""The softmax gate's loss, by hand and against a slow float64 twin, values and gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from experts import OutcomeTable
from router_rl import Objective, ScorerConfig
from router_rl.methods.gates import softmax_gate
from router_rl.methods.gates.softmax_gate import SoftmaxGateHyperparameters, mixture_loss, soft_targets
from router_rl.methods.method import Run
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Hard


def test_mixture_loss_by_hand() -> None:
    mixing = torch.tensor([[0.25, 0.75]])
    probabilities = torch.tensor([[[0.8, 0.2], [0.4, 0.6]]])
    # P(y = 0) = 0.25 * 0.8 + 0.75 * 0.4 = 0.5, plus the floor of 1e-3 / 2
    assert float(mixture_loss(mixing, probabilities, torch.tensor([0]))) == pytest.approx(-math.log(0.5005))


def test_mixture_loss_equals_the_slow_twin() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    probabilities = torch.rand(5, 3, 4, generator=generator, dtype=torch.float64)
    probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
    label = torch.tensor([0, 3, 1, 1, 2])
    loss = mixture_loss(logits.softmax(dim=-1), probabilities, label)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    for t in range(5):
        z = [float(v) for v in logits.detach()[t]]
        g = [math.exp(v) / sum(map(math.exp, z)) for v in z]
        p = [float(probabilities[t, e, label[t]]) for e in range(3)]
        mixture = sum(a * b for a, b in zip(g, p, strict=True))
        assert float(loss.detach()[t]) == pytest.approx(-math.log(mixture + 1e-3 / 4), rel=1e-9)
        for e in range(3):
            # d/dz_e of -log(sum g p + c) = -g_e (p_e - sum g p) / (sum g p + c)
            expected = -g[e] * (p[e] - mixture) / (mixture + 1e-3 / 4)
            assert float(gradient[t, e]) == pytest.approx(expected, rel=1e-9)


def test_the_responsibility_drives_the_gradient_towards_the_expert_that_is_right() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    probabilities = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]])
    mixture_loss(logits.softmax(dim=-1), probabilities, torch.tensor([1])).sum().backward()
    assert logits.grad[0, 1] < 0 < logits.grad[0, 0]


def test_soft_targets_by_hand() -> None:
    targets = soft_targets(torch.tensor([[1.0, 0.8, 0.8]]), 0.2)
    e = math.e
    torch.testing.assert_close(targets, torch.tensor([[e / (e + 2), 1 / (e + 2), 1 / (e + 2)]]))


ROWS = torch.arange(6)


def _loss(table: OutcomeTable, compute_weight: float, load_weight: float = 0.0, **settings: float) -> Tensor:
    """The loss that the gate minimizes on the first rows, at the weights of seed 0."""
    objective = Objective(compute_weight=compute_weight, load_weight=load_weight)
    problem = RoutingProblem(table, objective, Hard(), scorer=ScorerConfig(kind="linear"))
    found: list[Tensor] = []

    def watch(problem: RoutingProblem, settings: Any, run: Run, loss: Any) -> None:
        found.append(loss(_gate(problem), problem.outcomes(), ROWS, torch.Generator()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(softmax_gate, "train_gate", watch)
        softmax_gate.fit(problem, SoftmaxGateHyperparameters(**settings), Run())
    return found[0].detach()


def _gate(problem: RoutingProblem) -> Any:
    router = problem.new_router(0)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(3))
    return router


def _known(table: OutcomeTable) -> tuple[Tensor, Any]:
    """Probabilities [6, N] of the gate that `_loss` reads, and the outcomes."""
    problem = RoutingProblem(table, Objective(), Hard(), scorer=ScorerConfig(kind="linear"))
    outcomes = problem.outcomes()
    return _gate(problem).scores(outcomes.features[ROWS]).softmax(dim=-1).detach(), outcomes


def test_compute_is_not_ignored(kinds: OutcomeTable) -> None:
    p, outcomes = _known(kinds)
    mean = (p * outcomes.compute[ROWS]).sum(dim=-1).mean()
    added = _loss(kinds, 0.4, own_compute=2.0) - _loss(kinds, 0.0, own_compute=2.0)
    torch.testing.assert_close(added, 2.0 * 0.4 * mean)


def test_compute_is_not_ignored_without_probabilities(kinds_without_probabilities: OutcomeTable) -> None:
    p, outcomes = _known(kinds_without_probabilities)
    utility = outcomes.quality[ROWS] - 0.8 * outcomes.compute[ROWS]
    expected = -((utility / 0.2).softmax(dim=-1) * p.log()).sum(dim=-1).mean()
    torch.testing.assert_close(_loss(kinds_without_probabilities, 0.4, own_compute=2.0), expected)


@pytest.mark.parametrize("name", ["kinds", "kinds_without_probabilities"])
def test_load_is_not_ignored(name: str, request: pytest.FixtureRequest) -> None:
    table = request.getfixturevalue(name)
    p, _ = _known(table)
    share = p.argmax(dim=-1).bincount(minlength=4) / len(ROWS)
    balance = 4 * (share * p.mean(dim=0)).sum()
    alone = _loss(table, 0.1)
    torch.testing.assert_close(_loss(table, 0.1, load_weight=0.3, own_load=2.0) - alone, 0.6 * balance)
    torch.testing.assert_close(_loss(table, 0.1, balance=0.05) - alone, 0.05 * balance)
