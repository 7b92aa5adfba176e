"""A policy gradient that starts from the best of a few regressions and is kept where it is surely better.

Regressions tell what a query is worth to each expert and takes of it (`regressions.py`). The policy

    pi(a | x, c) = softmax_a((sum_k alpha_k r_k(x)_a + b_a - c compute_a demand_a(x)) / tau),  alpha_k >= 0

has one weight a regression and one bias an expert. It ascends the expected utility exactly (`exact_pg`), with
the compute weight c drawn anew for each query and, if asked, the experts' prices too. Few weights cannot fit
the noise of single outcomes, which is what stops a policy of all features. The weights c are spread so that
the stacked regressions spend evenly from the most to the least: at most weights of a wide range everybody
gets the dearest expert or everybody the cheapest, and what is decided nowhere tells nothing.

Where it starts, and whether the ascent is kept, is asked of the training rows: everything is fitted again
with a fold of them away, readouts and all, and judged by what its greedy choices earn on that fold at these
c (`judging.py`). It starts at the last readout, which is the group's where there are groups, or else at the
best expert for all; unless others earn more by `caution` standard errors of the paired difference, of whom
the one that earns most is taken: the best expert for all, each other regression, the mean of the first and
the last readout, the mean of all readouts, the least squares of all regressions (stacking). The ascent takes
its place on the same terms. So the result is one of the strong baselines, or a policy that was better than it
on rows that neither was fitted to. It is linear in the features, serves every compute weight, and is repriced
without training. Validation rows are only watched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.reward import utility
from experts import InputError

from ...problems.cross_fitting import held_out
from ...problems.objective import Objective
from ...problems.routing.problem import RoutingProblem
from ...problems.routing.router_measurement import RouterMeasurement, Rows, measure_rows
from ...routing import PricedScorer, Router
from ..method import Method, Run
from ..training_loop import EarlyStopping
from .conditioned_pg import declared, grid, positive, together
from .held_out_evaluation import Ground, Judge, decisive_weights, judges_of
from .regressions import Regressions, stacked

__all__ = ["METHOD", "SPACE", "PricedPGHyperparameters", "fit", "over"]

_FOLDS = 5  # where the table has none
_LEAST = 0.02  # of alpha at the start: at 0 it could not rise


@dataclass(frozen=True, kw_only=True)
class PricedPGHyperparameters:
    """Hyperparameters of the priced policy gradient.

    Attributes:
        lowest, highest: the compute weights trained for, as for `conditioned_pg`.
        spread: in training each expert's compute is multiplied by a draw from 1 / spread to spread.
        temperature: tau, in units of utility.
        learning_rate: of Adam, for the logarithms of alpha; the biases learn at a twentieth of it.
        steps: gradient steps, each on `batch` queries.
        batch: queries a step.
        every: steps between two measurements on validation rows, which are told and change nothing.
        caution: standard errors by which another start, or the ascent, must be better (1 is the rule of
            Breiman et al. 1984, section 3.4.3).
    """

    lowest: float | None = None
    highest: float | None = None
    spread: float = 1.0
    temperature: float = 0.02
    learning_rate: float = 0.02
    steps: int = 300
    batch: int = 1024
    every: int = 50
    caution: float = 1.0


SPACE = {
    "temperature": (0.01, 0.02, 0.05, 0.1),
    "learning_rate": (0.005, 0.02, 0.05),
}


Start = Callable[[Ground], Tensor]  # the rows it may be fitted to, to alpha [K]


def over(
    hyperparameters: PricedPGHyperparameters, objectives: Sequence[Objective]
) -> PricedPGHyperparameters:
    """The settings of the one fit that serves objectives which differ in compute weight."""
    weights = [objective.compute_weight for objective in objectives]
    low, high = positive(min(weights)) / 2.0, positive(max(weights)) * 2.0
    return replace(
        hyperparameters, lowest=hyperparameters.lowest or low, highest=hyperparameters.highest or high
    )


def fit(problem: RoutingProblem, hyperparameters: PricedPGHyperparameters, run: Run) -> Router:
    """Fit the regressions, find the start, ascend, and return what earned most out of fold.

    Raises:
        InputError: load is charged, which this policy does not see, or the range is not rising.
    """
    if len(problem.objectives) > 1:
        hyperparameters = over(hyperparameters, problem.objectives)
    objective = problem.objective
    if objective.load_weight:
        reason = "priced_pg does not learn to balance"
        raise InputError("objective.load_weight", objective.load_weight, reason, "use conditioned_pg")
    weight = positive(objective.compute_weight)
    low = weight / 8.0 if hyperparameters.lowest is None else hyperparameters.lowest
    high = weight * 8.0 if hyperparameters.highest is None else hyperparameters.highest
    if not 0.0 < low < high < math.inf:
        reason = f"does not begin a range that ends at {high:g}"
        raise InputError("settings.lowest", low, reason, "use 0 < lowest < highest")
    assert problem.train.features is not None
    scorer = PricedScorer(problem.train.features.shape[1] + 1, len(problem.train.experts), [(low, high)])
    router = problem.wrap(scorer, [declared("compute_weight", low, high)])
    folds = (
        held_out(problem.train, _FOLDS, run.seed)
        if problem.out_of_fold is None
        else problem.out_of_fold.folds
    )
    ground = Ground.of(problem, scorer, folds)
    weights = decisive_weights(ground, low, high)
    judges = judges_of(problem, scorer, folds, weights, run.seed)
    with torch.no_grad():
        scorer.compute.copy_(ground.mean)
        scorer.demand_weight.copy_(ground.demand.weight)
        scorer.demand_bias.copy_(ground.demand.bias)
    name, start, earned = _best_start(judges, len(problem.train), hyperparameters.caution)
    rest = torch.zeros_like(ground.found.mean)
    gain = np.zeros(len(problem.train))
    for judge in judges:
        alpha, bias = _ascended(judge.ground, weights, start(judge.ground), hyperparameters, run.seed)
        gain[judge.rows] = judge.utility(alpha, bias) - earned[judge.rows]
    rows = Rows.of(problem.validation, problem.scale, problem.device)
    judged = grid(objective, {"compute_weight": (low, high)})

    def measured(router: Router) -> RouterMeasurement:
        return together([measure_rows(router, rows, each) for each in judged])

    watched = EarlyStopping(problem, hyperparameters.steps, run.callback, measured)

    def tell(step: int, alpha: Tensor, bias: Tensor) -> None:
        _write(scorer, ground.found, alpha, bias, hyperparameters.temperature)
        watched.update(router, step, hyperparameters.steps)

    tell(0, start(ground), rest)
    alpha, bias = _ascended(ground, weights, start(ground), hyperparameters, run.seed, tell)
    kept = _surely(gain, hyperparameters.caution)
    if not kept:
        alpha, bias = start(ground), rest
    run.messages.append(
        f"priced_pg starts from {name}; the ascent from there is {'' if kept else 'not '}kept: it earns "
        f"{gain.mean():+.4f} a query on rows held out, standard error {gain.std() / len(gain) ** 0.5:.4f}"
    )
    _write(scorer, ground.found, alpha, bias, hyperparameters.temperature)
    return router.eval()


def _best_start(judges: Sequence[Judge], rows: int, caution: float) -> tuple[str, Start, np.ndarray]:
    """Where to start: its name, itself, and what it earns on rows held out, [T]."""
    found = judges[0].ground.found
    single = torch.eye(found.unseen.shape[-1], dtype=torch.float64, device=found.mean.device)
    out_of_fold = found.out_of_fold
    plain = [(f"readout {row + 1} of {out_of_fold}", single[row]) for row in reversed(range(out_of_fold))]
    plain.insert(min(out_of_fold, 1), ("the best expert for all", single[0] * 0.0))
    plain += [
        (f"ridge regression {row + 1 - out_of_fold}", single[row]) for row in range(out_of_fold, len(single))
    ]
    if out_of_fold > 1:
        plain.append(("the mean of the first and the last readout", single[[0, out_of_fold - 1]].mean(dim=0)))
        plain.append(("the mean of the readouts", single[:out_of_fold].mean(dim=0)))
    starts: list[tuple[str, Start]] = [(name, lambda _, alpha=alpha: alpha) for name, alpha in plain]
    starts.append(("all regressions, stacked", lambda ground: stacked(ground.found, ground.quality)))

    def earned(start: Start) -> np.ndarray:
        utility = np.empty(rows)
        for judge in judges:
            utility[judge.rows] = judge.utility(start(judge.ground), torch.zeros_like(judge.ground.mean))
        return utility

    first, *others = [(name, start, earned(start)) for name, start in starts]
    better = [other for other in others if _surely(other[2] - first[2], caution)]
    return max(better, key=lambda other: other[2].mean(), default=first)


def _surely(gain: np.ndarray, caution: float) -> bool:
    return bool(gain.mean() > caution * gain.std() / np.sqrt(len(gain)))


def _ascended(
    ground: Ground,
    weights: Tensor,
    start: Tensor,
    hyperparameters: PricedPGHyperparameters,
    seed: int,
    tell: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Alpha [K] and bias [N] after ascending the expected utility, at weights between those given."""
    log_alpha = start.clamp(min=_LEAST).log().requires_grad_()
    bias = torch.zeros_like(ground.found.mean).requires_grad_()
    rate = hyperparameters.learning_rate
    optimizer = torch.optim.Adam([{"params": [log_alpha], "lr": rate}, {"params": [bias], "lr": rate / 20.0}])
    generator = torch.Generator(device=bias.device).manual_seed(seed)
    draw: Any = {"generator": generator, "device": bias.device, "dtype": torch.float64}
    rungs, spread = weights.log(), hyperparameters.spread
    among = len(ground.quality)
    for step in range(1, hyperparameters.steps + 1):
        row = torch.randint(among, (hyperparameters.batch,), generator=generator, device=bias.device)
        place = torch.rand((len(row), 1), **draw) * (len(rungs) - 1)
        below = place.long()
        price = torch.lerp(rungs[below], rungs[below + 1], place - below).exp()
        if spread != 1.0:
            price = price * spread ** (2.0 * torch.rand((len(row), len(bias)), **draw) - 1.0)
        worth = ground.found.mean + bias + ground.found.unseen[row] @ log_alpha.exp()
        expected = price * ground.mean * ground.demand.unseen[row]
        chance = ((worth - expected) / hyperparameters.temperature).softmax(dim=-1)
        each = utility({"quality": ground.quality[row], "compute": ground.compute[row]}, {"compute": price})
        earned = (chance * each).sum(dim=-1).mean()
        optimizer.zero_grad(set_to_none=True)
        (-earned).backward()
        optimizer.step()
        if tell is not None and step % hyperparameters.every == 0:
            tell(step, log_alpha.detach().exp(), bias.detach())
    return log_alpha.detach().exp(), bias.detach()


@torch.no_grad()
def _write(scorer: PricedScorer, found: Regressions, alpha: Tensor, bias: Tensor, temperature: float) -> None:
    """Put the mixture of regressions into the scorer."""
    scorer.weight.copy_(torch.einsum("k,knd->nd", alpha, found.weight))
    scorer.bias.copy_(found.mean + bias + alpha @ found.bias)
    scorer.gain.fill_(1.0 / temperature)


METHOD = Method(
    name="priced_pg",
    family="rl",
    fit=fit,
    hyperparameters=PricedPGHyperparameters,
    space=SPACE,
    about="the surely best of a few regressions, or a policy over them, for every weight and price",
    selections=("hard",),
    amortizes=True,
)
