"""Priced policy gradient: a policy over a few regressions, kept if significantly better than the best one.

Regressions predict each expert's quality and cost for a query (`regressions.py`). The policy

    pi(a | x, c) = softmax_a((sum_k alpha_k r_k(x)_a + b_a - c compute_a demand_a(x)) / tau),  alpha_k >= 0

has one weight per regression and one bias per expert. Training maximizes the exact expected utility (as
`exact_pg`), with the compute weight c sampled for each query and, if `spread` is set, the experts' prices
too. So few parameters cannot overfit the noise of single outcomes, as a policy over all features does. The
weights c are spaced so that the stacked regressions spend evenly spaced amounts of compute: at most weights
of a wide range all queries go to one expert, and such weights give no training signal.

The initial weights, and whether training is kept, are decided by cross-validation on the training rows. For
each fold everything is refitted without it, out-of-fold features included, and the greedy choices are
evaluated on it (`held_out_evaluation.py`). The default start is the last out-of-fold prediction (the group
mean if the table has groups), or else the best single expert. Another start replaces it if its utility is
higher by more than `caution` standard errors of the paired difference; of several, the best is taken.
Candidates are the best single expert, every single regression, the mean of the first and the last
out-of-fold predictions, the mean of all out-of-fold predictions, and least-squares stacking. The trained
weights replace the start under the same rule.

The result is linear in the features, serves every compute weight, and accepts new prices without retraining.
Validation rows are only reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from envs.reward import utility
from experts import InputError
from experts.io.value_range import Count, Positive, Range, Size

from ...problems.cross_fitting import held_out
from ...problems.objective import Objective
from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import RouterMeasurement, Rows, measure_rows
from ...routing import PricedScorer, Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from ..training_loop import EarlyStopping, descend
from .conditioned_pg import (
    concatenate_measurements,
    middle_objective,
    objective_grid,
    positive_weight,
    weight_input,
)
from .held_out_evaluation import HeldOutEvaluation, RegressionData, evaluation_weights, held_out_evaluations
from .regressions import Regressions, stacking_weights

__all__ = ["METHOD", "SPACE", "PricedPGHyperparameters", "fit", "for_objectives"]

_FOLDS = 5  # if the table has none
_MIN_ALPHA = 0.02  # of the initial weights: log(alpha) is trained, so 0 could not grow


@dataclass(frozen=True, kw_only=True)
class PricedPGHyperparameters(Hyperparameters):
    """Hyperparameters of the priced policy gradient.

    Attributes:
        lowest: lowest compute weight to train for; by default an eighth of the objective's. In `compare`,
            half of the lowest compute weight that is compared.
        highest: highest compute weight to train for; by default eight times the objective's. In `compare`,
            twice the highest compute weight that is compared.
        spread: each expert's compute is multiplied in training by a random factor from 1 / spread to spread.
        temperature: temperature tau of the softmax, in units of utility.
        learning_rate: learning rate of Adam for log(alpha); the biases use a twentieth of it.
        steps: number of gradient steps.
        batch: queries per gradient step.
        every: gradient steps between two reported validations.
        caution: standard errors by which another start, or the trained policy, must be better (1 is the rule
            of Breiman et al. 1984, section 3.4.3).
    """

    lowest: Positive | None = None
    highest: Positive | None = None
    spread: Annotated[float, Range(1.0)] = 1.0
    temperature: Positive = 0.02
    learning_rate: Positive = 0.02
    steps: Size = 300
    batch: Count = 1024
    every: Count = 50
    caution: float = 1.0


SPACE = {
    "temperature": (0.01, 0.02, 0.05, 0.1),
    "learning_rate": (0.005, 0.02, 0.05),
}


Start = Callable[[RegressionData], Tensor]  # regression data to initial weights alpha [K]


def for_objectives(
    hyperparameters: PricedPGHyperparameters, objectives: Sequence[Objective]
) -> PricedPGHyperparameters:
    """Return the hyperparameters of one fit that serves several objectives.

    Args:
        hyperparameters: values of `lowest` and `highest` that are set are kept.
        objectives: objectives that differ in compute weight only.
    """
    weights = [objective.compute_weight for objective in objectives]
    low, high = positive_weight(min(weights)) / 2.0, positive_weight(max(weights)) * 2.0
    return replace(
        hyperparameters, lowest=hyperparameters.lowest or low, highest=hyperparameters.highest or high
    )


def fit(problem: RoutingProblem, hyperparameters: PricedPGHyperparameters, run: Run) -> Router:
    """Fit the regressions, select the start, train, and return whichever has the higher held-out utility.

    Args:
        problem: training and validation rows and objectives; the selection rule is `hard`.
        hyperparameters: the compute weight range and the optimizer's options.
        run: seed, callback and messages.

    Returns:
        a router with the compute weight as a second input, in evaluation mode.

    Raises:
        InputError: load is charged, which this policy does not observe, or the range is not increasing.
    """
    if len(problem.objectives) > 1:
        hyperparameters = for_objectives(hyperparameters, problem.objectives)
    objective = problem.objective
    if objective.load_weight:
        reason = "priced_pg does not learn to balance"
        raise InputError("objective.load_weight", objective.load_weight, reason, "use conditioned_pg")
    weight = positive_weight(objective.compute_weight)
    low = weight / 8.0 if hyperparameters.lowest is None else hyperparameters.lowest
    high = weight * 8.0 if hyperparameters.highest is None else hyperparameters.highest
    if not 0.0 < low < high < math.inf:
        reason = f"is not below the highest compute weight, {high:g}"
        raise InputError("method.lowest", low, reason, "use 0 < lowest < highest")
    assert problem.train.features is not None
    scorer = PricedScorer(problem.train.features.shape[1] + 1, len(problem.train.experts), [(low, high)])
    served = middle_objective(problem.objectives).compute_weight
    router = problem.wrap(scorer, [weight_input("compute_weight", low, high, served)])
    folds = (
        held_out(problem.train, _FOLDS, run.seed)
        if problem.out_of_fold is None
        else problem.out_of_fold.folds
    )
    data = RegressionData.of(problem, scorer, folds)
    regressions = data.quality_regressions
    weights = evaluation_weights(data, low, high)
    evaluations = held_out_evaluations(problem, scorer, folds, weights, run.seed)
    with torch.no_grad():
        scorer.compute.copy_(data.mean)
        scorer.demand_weight.copy_(data.cost_regression.weight)
        scorer.demand_bias.copy_(data.cost_regression.bias)
    name, start, start_utility = _best_start(evaluations, len(problem.train), hyperparameters.caution)
    no_bias = torch.zeros_like(regressions.mean)
    gain = np.zeros(len(problem.train))
    for evaluation in evaluations:
        alpha, bias = _train(evaluation.data, weights, start(evaluation.data), hyperparameters, run.seed)
        gain[evaluation.rows] = evaluation.utility(alpha, bias) - start_utility[evaluation.rows]
    rows = Rows.of(problem.validation, problem.scale, problem.device)
    objectives = objective_grid(objective, {"compute_weight": (low, high)})

    def evaluate(router: Router) -> RouterMeasurement:
        return concatenate_measurements([measure_rows(router, rows, each) for each in objectives])

    validation = EarlyStopping(problem, hyperparameters.steps, run.callback, evaluate)

    def report(step: int, alpha: Tensor, bias: Tensor) -> None:
        _write(scorer, regressions, alpha, bias, hyperparameters.temperature)
        validation.update(router, step, hyperparameters.steps)

    report(0, start(data), no_bias)
    alpha, bias = _train(data, weights, start(data), hyperparameters, run.seed, report)
    improved = _significant(gain, hyperparameters.caution)
    if not improved:
        alpha, bias = start(data), no_bias
    run.messages.append(
        f"priced_pg starts from {name}; RL {'improved' if improved else 'did not improve'} on it: "
        f"{gain.mean():+.4f} ± {gain.std() / len(gain) ** 0.5:.4f} SE utility per query on held-out rows"
    )
    _write(scorer, regressions, alpha, bias, hyperparameters.temperature)
    return router.eval()


def _best_start(
    evaluations: Sequence[HeldOutEvaluation], rows: int, caution: float
) -> tuple[str, Start, np.ndarray]:
    """Select the initial weights; returns their name, the function and its held-out utility [T]."""
    regressions = evaluations[0].data.quality_regressions
    count = regressions.n_out_of_fold
    single = torch.eye(regressions.out_of_fold.shape[-1], dtype=torch.float64, device=regressions.mean.device)
    fixed = [(f"out-of-fold prediction {row + 1} of {count}", single[row]) for row in reversed(range(count))]
    fixed.insert(min(count, 1), ("the best single expert", single[0] * 0.0))
    fixed += [(f"ridge regression {row + 1 - count}", single[row]) for row in range(count, len(single))]
    if count > 1:
        ends = single[[0, count - 1]].mean(dim=0)
        fixed.append(("the mean of the first and the last out-of-fold predictions", ends))
        fixed.append(("the mean of the out-of-fold predictions", single[:count].mean(dim=0)))
    starts: list[tuple[str, Start]] = [(name, lambda _, alpha=alpha: alpha) for name, alpha in fixed]
    starts.append(
        ("the stacked regressions", lambda data: stacking_weights(data.quality_regressions, data.quality))
    )

    def held_out_utility(start: Start) -> np.ndarray:
        utility = np.empty(rows)
        for each in evaluations:
            utility[each.rows] = each.utility(start(each.data), torch.zeros_like(each.data.mean))
        return utility

    first, *others = [(name, start, held_out_utility(start)) for name, start in starts]
    better = [other for other in others if _significant(other[2] - first[2], caution)]
    return max(better, key=lambda other: other[2].mean(), default=first)


def _significant(gain: np.ndarray, caution: float) -> bool:
    return bool(gain.mean() > caution * gain.std() / np.sqrt(len(gain)))


def _train(
    data: RegressionData,
    weights: Tensor,
    start: Tensor,
    hyperparameters: PricedPGHyperparameters,
    seed: int,
    report: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Maximize the expected utility over compute weights; returns alpha [K] and bias [N]."""
    regressions = data.quality_regressions
    log_alpha = start.clamp(min=_MIN_ALPHA).log().requires_grad_()
    bias = torch.zeros_like(regressions.mean).requires_grad_()
    rate = hyperparameters.learning_rate
    optimizer = torch.optim.Adam([{"params": [log_alpha], "lr": rate}, {"params": [bias], "lr": rate / 20.0}])
    generator = torch.Generator(device=bias.device).manual_seed(seed)
    uniform: Any = {"generator": generator, "device": bias.device, "dtype": torch.float64}
    log_weights, spread = weights.log(), hyperparameters.spread
    rows = len(data.quality)
    for step in range(1, hyperparameters.steps + 1):
        row = torch.randint(rows, (hyperparameters.batch,), generator=generator, device=bias.device)
        position = torch.rand((len(row), 1), **uniform) * (len(log_weights) - 1)
        below = position.long()
        weight = torch.lerp(log_weights[below], log_weights[below + 1], position - below).exp()
        if spread != 1.0:
            weight = weight * spread ** (2.0 * torch.rand((len(row), len(bias)), **uniform) - 1.0)
        quality = regressions.mean + bias + regressions.out_of_fold[row] @ log_alpha.exp()
        cost = weight * data.mean * data.cost_regression.out_of_fold[row]
        probability = ((quality - cost) / hyperparameters.temperature).softmax(dim=-1)
        each = utility({"quality": data.quality[row], "compute": data.compute[row]}, {"compute": weight})
        expected = (probability * each).sum(dim=-1).mean()
        descend(optimizer, -expected)
        if report is not None and step % hyperparameters.every == 0:
            report(step, log_alpha.detach().exp(), bias.detach())
    return log_alpha.detach().exp(), bias.detach()


@torch.no_grad()
def _write(
    scorer: PricedScorer, regressions: Regressions, alpha: Tensor, bias: Tensor, temperature: float
) -> None:
    """Write the weighted sum of the regressions into the scorer."""
    scorer.weight.copy_(torch.einsum("k,knd->nd", alpha, regressions.weight))
    scorer.bias.copy_(regressions.mean + bias + alpha @ regressions.bias)
    scorer.gain.fill_(1.0 / temperature)


METHOD = Method(
    name="priced_pg",
    family="rl",
    full_information=True,
    fit=fit,
    hyperparameters=PricedPGHyperparameters,
    space=SPACE,
    about="one router for all compute weights and expert prices",
    sparse=True,
    selections=("hard",),
    amortizes=True,
)
