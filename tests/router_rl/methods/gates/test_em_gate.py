"""The EM gate: E-step and loss by hand, against a slow twin, and a likelihood that never falls."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from envs import Outcomes
from experts import OutcomeTable
from router_rl import Objective
from router_rl.methods.gates import em_gate
from router_rl.methods.gates.em_gate import (
    EMGateHyperparameters,
    _m_step,
    expert_log_likelihood,
    gate_loss,
    responsibilities,
)
from router_rl.methods.method import Run
from router_rl.methods.training_loop import Snapshot
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.problems.routing.routing_options import ScorerConfig
from router_rl.problems.selection_rules import selection
from router_rl.routing import Hard, LinearScorer, Router


def outcomes(**changes: torch.Tensor | None) -> Outcomes:
    fields: dict[str, torch.Tensor | None] = {
        "features": torch.zeros(1, 1),
        "quality": torch.tensor([[1.0, 0.0]]),
        "compute": torch.tensor([[0.5, 1.0]]),
        "probabilities": torch.tensor([[[0.8, 0.2], [0.4, 0.6]]]),
        "label": torch.tensor([0]),
    }
    return Outcomes(**{**fields, **changes})  # type: ignore[arg-type]


def test_likelihood_by_hand() -> None:
    found = expert_log_likelihood(outcomes(), compute_weight=0.1, temperature=0.2)[0].tolist()
    floor = 1e-3 / 2
    expected = [math.log(0.8 + floor) - 0.25, math.log(0.4 + floor) - 0.5, math.log(0.5 + floor)]
    assert found == pytest.approx(expected)


def test_utility_stands_in_where_there_are_no_probabilities() -> None:
    table = outcomes(probabilities=None, label=None)
    found = expert_log_likelihood(table, compute_weight=0.1, temperature=0.2)[0].tolist()
    assert found == pytest.approx([0.95 / 0.2, -0.1 / 0.2, 0.0])


def test_one_e_step_by_hand() -> None:
    # g = (.5, .3) and .2 nobody's; P = (.2, .6, .1): joint .1, .18, .02, in all .3
    share, likelihood = torch.tensor([[0.5, 0.3]]), torch.tensor([[0.2, 0.6, 0.1]]).log()
    assert responsibilities(share, likelihood)[0].tolist() == pytest.approx([1 / 3, 0.6, 1 / 15])
    assert responsibilities(share, likelihood, hard=True)[0].tolist() == [0.0, 1.0, 0.0]


def test_the_loss_by_hand() -> None:
    target = torch.tensor([[0.2, 0.7, 0.1]])
    expected = -(0.2 * math.log(0.5) + 0.7 * math.log(0.3) + 0.1 * math.log(0.2))
    assert float(gate_loss(torch.tensor([[0.5, 0.3]]), target)) == pytest.approx(expected)


def test_em_and_the_mixtures_likelihood_have_the_same_gradient() -> None:
    """At the gate the responsibilities came from, both slopes are equal (Fisher's identity)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, requires_grad=True)
    likelihood = torch.rand(6, 4, generator=generator).log()
    share = logits.softmax(dim=-1)
    target = responsibilities(share.detach(), likelihood)
    (by_em,) = torch.autograd.grad(gate_loss(share, target).sum(), logits, retain_graph=True)
    mixture = -(share.log() + likelihood[:, :3]).logsumexp(dim=-1).sum()
    (direct,) = torch.autograd.grad(mixture, logits)
    torch.testing.assert_close(by_em, direct)


@pytest.mark.parametrize("select", ["hard", "hierarchical", "adaptive_k"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_the_likelihood_never_falls(kinds: OutcomeTable, select: str, kind: str) -> None:
    scorer = ScorerConfig(kind=kind)  # type: ignore[arg-type]
    task = RoutingProblem(kinds, Objective(compute_weight=0.1), selection(select, kinds), scorer=scorer)
    data = task.outcomes()
    likelihood = expert_log_likelihood(data, 0.1, 0.2)
    found: list[float] = []
    for iterations in range(1, 6):
        settings = em_gate.EMGateHyperparameters(ridge=0.0, iterations=iterations, patience=99)
        last: list[Snapshot] = []
        with pytest.MonkeyPatch.context() as patch:
            # The last weights, not the best on validation.
            patch.setattr(em_gate.EarlyStopping, "best", lambda self, router: router)
            router = em_gate.fit(task, settings, Run(callback=last.append))
        share = router.rule.probabilities(router.logits(data.features)[0]).detach()
        joint = torch.cat([share, 1.0 - share.sum(dim=-1, keepdim=True)], dim=-1).clamp(min=0.0).log()
        found.append(float((joint + likelihood).logsumexp(dim=-1).mean()))
    assert all(after >= before - 1e-5 for before, after in itertools.pairwise(found))
    assert found[-1] > found[0]


def _regression() -> tuple[Router, torch.Tensor, torch.Tensor]:
    """A linear gate of 3 experts, features [40, 2] and responsibilities [40, 4]."""
    generator = torch.Generator().manual_seed(0)
    scorer = LinearScorer(2, 3)
    with torch.no_grad():
        scorer.weight.normal_(generator=generator)
    features = torch.randn(40, 2, generator=generator)
    target = torch.cat([torch.rand(40, 3, generator=generator), torch.zeros(40, 1)], dim=1)
    return Router(scorer, Hard(), ("a", "b", "c")), features, target / target.sum(dim=1, keepdim=True)


def test_the_m_step_has_its_ridge() -> None:
    """At the minimum the gradient of the cross-entropy is -ridge * weight, and 0 for biases."""
    router, features, target = _regression()
    ridge = 0.2
    loss = _m_step(router, features, target, EMGateHyperparameters(ridge=ridge))
    scorer = router.scorer
    value = gate_loss(router.rule.probabilities(router.logits(features)[0]), target).mean()
    weight, bias = torch.autograd.grad(value, [scorer.weight, scorer.bias])
    assert scorer.weight.detach().abs().max() > 0.01
    torch.testing.assert_close(weight, -ridge * scorer.weight.detach(), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(bias, torch.zeros(3), atol=1e-4, rtol=0.0)
    penalty = 0.5 * ridge * scorer.weight.detach().square().sum()
    assert loss == pytest.approx(float(value.detach() + penalty))


def test_a_worse_m_step_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    router, features, target = _regression()
    before = router.scorer.weight.detach().clone()
    share = router.rule.probabilities(router.logits(features)[0]).detach()
    loss = float(gate_loss(share, target).mean())

    def worse(optimizer: torch.optim.LBFGS, closure: object) -> None:
        with torch.no_grad():
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.mul_(9.0)

    monkeypatch.setattr(torch.optim.LBFGS, "step", worse)
    assert _m_step(router, features, target, EMGateHyperparameters(ridge=0.0)) == pytest.approx(loss)
    assert router.scorer.weight.detach().equal(before)
