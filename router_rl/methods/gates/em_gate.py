"""The EM gate: expectation-maximisation of a mixture whose experts are frozen, so that only the gate moves.

E-step: `h_te = g_te P_te / sum_j g_tj P_tj`, how far expert e is responsible for query t. M-step: the gate
is fitted to h by weighted multinomial logistic regression (Jacobs, Jordan, Nowlan and Hinton 1991,
https://doi.org/10.1162/neco.1991.3.1.79; Jordan and Jacobs 1994,
https://doi.org/10.1162/neco.1994.6.2.181), here by full-batch L-BFGS from where the gate stands. With a
linear scorer that problem is convex; with a perceptron the M-step only improves (generalised EM), and it is
undone if it does not.

`P_te` is the likelihood the expert gave the label, times `exp(-c m_te / tau)` for its compute m at weight c:
a prior that shuns dear experts. Tables without class probabilities have the pseudo-likelihood
`exp(u_te / tau)` of its utility u instead. What climbs is `sum_t log sum_e g_te P_te` less the ridge. `g` is
the rule's first draw, whichever rule: the product along the path in a tree, and with top-k all experts, not
the chosen ones, since an expert left out could never earn responsibility. What g lacks to 1 is nobody's, who
guesses evenly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from envs import Outcomes

from ...problems.routing.problem import RoutingProblem
from ...routing import LinearScorer, MLPScorer, Router
from ..method import Method, Run
from ..training_loop import EarlyStopping

__all__ = [
    "METHOD",
    "SPACE",
    "EMGateHyperparameters",
    "expert_log_likelihood",
    "fit",
    "gate_loss",
    "responsibilities",
]


_CONVERGED = 500  # L-BFGS steps no linear scorer needs


@dataclass(frozen=True, kw_only=True)
class EMGateHyperparameters:
    """Hyperparameters of the EM gate.

    Attributes:
        ridge: penalty on the scorer's squared weights, a query; biases are free.
        own_compute: the gate's own compute weight, as a multiple of the objective's.
        temperature: tau, the utility that is worth one nat of likelihood.
        hard: give each query wholly to one expert (classification EM) instead of sharing it.
        iterations: of E-step and M-step at most.
        patience: iterations without a better validation utility before stopping.
        steps: L-BFGS steps an M-step of a perceptron; a linear scorer's runs to convergence.
    """

    ridge: float = 1e-3
    own_compute: float = 1.0
    temperature: float = 0.2
    hard: bool = False
    iterations: int = 40
    patience: int = 8
    steps: int = 10


SPACE = {
    "ridge": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "temperature": (0.05, 0.2, 0.5, 1.0),
    "hard": (False, True),
    "steps": (3, 10, 30),
}


def fit(problem: RoutingProblem, hyperparameters: EMGateHyperparameters, run: Run) -> Router:
    """Alternate E-step and M-step; the weights with the best validation utility are kept."""
    router = problem.new_router(run.seed)
    outcomes = problem.outcomes()
    compute_weight = hyperparameters.own_compute * problem.objective.compute_weight
    likelihood = expert_log_likelihood(outcomes, compute_weight, hyperparameters.temperature)
    stopping = EarlyStopping(problem, hyperparameters.patience, run.callback)
    iteration = 0
    saved = run.checkpoint.load()
    if saved is None:
        stopping.update(router, 0, hyperparameters.iterations)
    else:
        iteration = saved["iteration"]
        router.load_state_dict(saved["router"])
        stopping.load_state_dict(saved["stopping"])
    while iteration < hyperparameters.iterations:
        iteration += 1
        with torch.no_grad():
            share = router.rule.probabilities(router.logits(outcomes.features)[0])
        target = responsibilities(share, likelihood, hard=hyperparameters.hard)
        loss = _maximise(router, outcomes.features, target, hyperparameters)
        if stopping.update(router, iteration, hyperparameters.iterations, {"loss": loss}):
            break
        if run.checkpoint.due:
            run.checkpoint.save(
                {
                    "iteration": iteration,
                    "router": router.state_dict(),
                    "stopping": stopping.state_dict(),
                }
            )
    return stopping.best(router)


def expert_log_likelihood(outcomes: Outcomes, compute_weight: float, temperature: float) -> Tensor:
    """What each expert makes of each query, and nobody last: [T, N + 1] float32, nats.

    Nobody guesses evenly among the classes; where there are none it earns nothing. A floor of a thousandth
    of the even guess keeps one confident mistake from ruling out an expert for good.
    """
    if outcomes.probabilities is None or outcomes.label is None:
        utility = outcomes.quality - compute_weight * outcomes.compute
        return F.pad(utility, (0, 1)) / temperature
    count, classes = outcomes.probabilities.shape[1:]
    label = outcomes.label.reshape(-1, 1, 1).expand(-1, count, 1)
    likelihood = outcomes.probabilities.gather(-1, label).squeeze(-1)
    likelihood = F.pad(likelihood, (0, 1), value=1.0 / classes)
    prior = F.pad(compute_weight * outcomes.compute, (0, 1)) / temperature
    return (likelihood + 1e-3 / classes).log() - prior


def responsibilities(share: Tensor, likelihood: Tensor, *, hard: bool = False) -> Tensor:
    """The E-step: `h = g P / sum g P`, [T, N + 1] float32, rows sum to 1, the last column nobody's.

    Args:
        share: [T, N] float32, g; what it lacks to 1 is nobody's.
        likelihood: [T, N + 1] float32, log P.
        hard: all to the largest, the lowest id among equals.

    >>> responsibilities(torch.tensor([[0.6, 0.4]]), torch.tensor([[0.1, 0.6, 0.5]]).log())
    tensor([[0.2000, 0.8000, 0.0000]])
    """
    joint = _with_nobody(share).log() + likelihood
    if hard:
        return F.one_hot(joint.argmax(dim=-1), joint.shape[-1]).float()
    return joint.softmax(dim=-1)


def gate_loss(share: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy `-sum_e h_e log g_e` of gate [T, N] and responsibilities [T, N + 1]; [T] float32."""
    return -(target * _with_nobody(share).clamp(min=1e-20).log()).sum(dim=-1)


def _with_nobody(share: Tensor) -> Tensor:
    """[T, N + 1]: with what the shares lack to 1; a rounding error is nobody's claim."""
    nobody = 1.0 - share.sum(dim=-1, keepdim=True)
    return torch.cat([share, torch.where(nobody > 1e-5, nobody, 0.0)], dim=-1)


def _maximise(
    router: Router, features: Tensor, target: Tensor, hyperparameters: EMGateHyperparameters
) -> float:
    """The M-step, in place; returns the mean loss it ended at, never above the one it began with."""
    parameters = list(router.parameters())
    matrices = _matrices(router)
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=_CONVERGED if isinstance(router.scorer, LinearScorer) else hyperparameters.steps,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        share = router.rule.probabilities(router.logits(features)[0])
        penalty = torch.stack([matrix.square().sum() for matrix in matrices]).sum()
        return gate_loss(share, target).mean() + 0.5 * hyperparameters.ridge * penalty

    def closure() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = objective()
        loss.backward()
        return float(loss.detach())

    old = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        before = float(objective())
    optimizer.step(closure)
    with torch.no_grad():
        after = float(objective())
        if after <= before:
            return after
        for parameter, value in zip(parameters, old, strict=True):
            parameter.copy_(value)
        return before


def _matrices(router: Router) -> list[Tensor]:
    """The scorer's weights without its biases."""
    scorer = cast("LinearScorer | MLPScorer", router.scorer)
    return [parameter for parameter in scorer.parameters() if parameter.dim() > 1]


METHOD = Method(
    name="em_gate",
    family="gate",
    fit=fit,
    hyperparameters=EMGateHyperparameters,
    space=SPACE,
    about="responsibilities and maximum likelihood (Jordan & Jacobs 1994)",
)
