"""The EM gate: expectation-maximization of a mixture of frozen experts, in which only the gate is fitted.

E-step: `h_te = g_te P_te / sum_j g_tj P_tj`, the responsibility of expert e for query t. M-step: the gate is
fitted to h by weighted multinomial logistic regression (Jacobs, Jordan, Nowlan and Hinton 1991,
https://doi.org/10.1162/neco.1991.3.1.79; Jordan and Jacobs 1994, https://doi.org/10.1162/neco.1994.6.2.181),
with full-batch L-BFGS from the current weights. With a linear scorer this problem is convex. With an MLP the
M-step only improves the loss (generalized EM), and it is reverted if it does not.

`P_te` is the likelihood that the expert gives to the label, times `exp(-c m_te / tau)` for its compute m at
weight c: a prior against expensive experts. For tables without class probabilities, the pseudo-likelihood
`exp(u_te / tau)` of the utility u replaces it. EM increases `sum_t log sum_e g_te P_te` minus the ridge
penalty. `g` is the rule's distribution of the first expert: the product along the path of a tree, and all
experts under top-k, because an expert outside the top k could never gain responsibility. The probability
missing to 1 goes to "no expert", which guesses uniformly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from envs import Outcomes
from experts.io.value_range import Count, NonNegative, Positive, Size

from ...problems.routing.problem import RoutingProblem
from ...routing import LinearScorer, MLPScorer, Router
from ..hyperparameters import Hyperparameters
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


_MAX_STEPS = 500  # of L-BFGS with a linear scorer, which converges earlier


@dataclass(frozen=True, kw_only=True)
class EMGateHyperparameters(Hyperparameters):
    """Hyperparameters of the EM gate.

    Attributes:
        ridge: L2 penalty on the scorer's weights, per query; biases are not penalized.
        own_compute: compute weight in the gate's loss, as a multiple of the objective's.
        temperature: temperature tau: utility that equals one nat of log-likelihood.
        hard: assign each query to one expert (classification EM) instead of soft responsibilities.
        iterations: maximum number of EM iterations.
        patience: iterations without improvement on validation before training stops.
        steps: L-BFGS steps per M-step of an MLP; a linear scorer is trained to convergence.
    """

    ridge: NonNegative = 1e-3
    own_compute: NonNegative = 1.0
    temperature: Positive = 0.2
    hard: bool = False
    iterations: Count = 40
    patience: Count = 8
    steps: Size = 10


SPACE = {
    "ridge": (1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    "own_compute": (0.5, 1.0, 2.0, 4.0),
    "temperature": (0.05, 0.2, 0.5, 1.0),
    "hard": (False, True),
    "steps": (3, 10, 30),
}


def fit(problem: RoutingProblem, hyperparameters: EMGateHyperparameters, run: Run) -> Router:
    """Alternate E-step and M-step; returns the router with the best validation utility."""
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
        loss = _m_step(router, outcomes.features, target, hyperparameters)
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
    """Return the log-likelihood of each expert on each query, "no expert" last: [T, N + 1] float32, in nats.

    "No expert" guesses uniformly among the classes; without class probabilities its utility is 0. The
    likelihood has a floor of a thousandth of the uniform guess, so that one confident mistake does not
    exclude an expert.

    Args:
        outcomes: training rows.
        compute_weight: weight of the compute prior, utility per unit of compute.
        temperature: tau, utility per nat.
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
    """Return the responsibilities of the E-step, `h = g P / sum g P`, [T, N + 1] float32; rows sum to 1.

    Args:
        share: [T, N] float32, g; the probability missing to 1 goes to "no expert", the last column.
        likelihood: [T, N + 1] float32, log P.
        hard: assign all to the largest, to the lowest id in a tie.

    >>> responsibilities(torch.tensor([[0.6, 0.4]]), torch.tensor([[0.1, 0.6, 0.5]]).log())
    tensor([[0.2000, 0.8000, 0.0000]])
    """
    joint = _with_no_expert(share).log() + likelihood
    if hard:
        return F.one_hot(joint.argmax(dim=-1), joint.shape[-1]).float()
    return joint.softmax(dim=-1)


def gate_loss(share: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy `-sum_e h_e log g_e` of g [T, N] and h [T, N + 1], [T] float32."""
    return -(target * _with_no_expert(share).clamp(min=1e-20).log()).sum(dim=-1)


def _with_no_expert(share: Tensor) -> Tensor:
    """Append the probability missing to 1, [T, N + 1]; rounding errors are set to 0."""
    no_expert = 1.0 - share.sum(dim=-1, keepdim=True)
    return torch.cat([share, torch.where(no_expert > 1e-5, no_expert, 0.0)], dim=-1)


def _m_step(
    router: Router, features: Tensor, target: Tensor, hyperparameters: EMGateHyperparameters
) -> float:
    """Run the M-step in place; returns the final mean loss, which never exceeds the initial one."""
    parameters = list(router.parameters())
    matrices = _matrices(router)
    optimizer = torch.optim.LBFGS(
        parameters,
        max_iter=_MAX_STEPS if isinstance(router.scorer, LinearScorer) else hyperparameters.steps,
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
    """Return the scorer's weights without its biases."""
    scorer = cast("LinearScorer | MLPScorer", router.scorer)
    return [parameter for parameter in scorer.parameters() if parameter.dim() > 1]


METHOD = Method(
    name="em_gate",
    family="gate",
    fit=fit,
    hyperparameters=EMGateHyperparameters,
    space=SPACE,
    about="expectation-maximization (Jordan & Jacobs 1994)",
    sparse=True,
)
