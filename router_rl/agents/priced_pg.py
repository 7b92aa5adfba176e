"""A policy gradient over a handful of regressions, for tables of few rows and 0/1 outcomes.

What a query is worth to each expert is told by several regressions: the readouts among the features, and
ridge regressions on all of them under several penalties. Of training rows each speaks out of fold. The policy

    pi(a | x, c) = softmax_a((sum_k alpha_k r_k(x)_a + b_a - c compute_a) / tau),  alpha_k >= 0

has one weight a regression and one bias an expert. It starts at the non-negative least squares of how experts
differ (what all of them have in common no router can use; stacking, Breiman 1996) and ascends the expected
utility exactly (`exact_pg`), with the compute weight c drawn anew for each query and, if asked, the experts'
prices too. Few weights cannot fit the noise of single outcomes, which is what stops a policy of all features.
The result is linear in the features, serves every compute weight, and is repriced without training.

Source: Stacked Regressions, https://doi.org/10.1007/BF00117832.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import nnls
from sklearn.model_selection import KFold
from torch import Tensor

from experts import InputError

from ..baselines.ridge import solve_ridge
from ..evaluation.measure import Measurement, Rows, measure_rows
from ..learning import EarlyStopping
from ..method import Run
from ..objective import Objective
from ..routing import PricedScorer, Router
from ..task import Task
from .conditioned_pg import declared, grid, positive, together

__all__ = ["SPACE", "PricedPGSettings", "fit", "over"]

_FOLDS = 5
_PENALTIES = (0.1, 1.0, 10.0)
_LEAST = 0.02  # of alpha at the start: at 0 it could not rise


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedPGSettings:
    """Hyperparameters of the priced policy gradient.

    Attributes:
        lowest, highest: the compute weights trained for, as for `conditioned_pg`.
        spread: in training each expert's compute is multiplied by a draw from 1 / spread to spread.
        temperature: tau, in units of utility.
        learning_rate: of Adam, for the logarithms of alpha; the biases learn at a twentieth of it.
        steps: gradient steps, each on `batch` queries.
        batch: queries a step.
        every: steps between two measurements on validation rows.
        patience: measurements without a better one before stopping.
    """

    lowest: float | None = None
    highest: float | None = None
    spread: float = 1.0
    temperature: float = 0.02
    learning_rate: float = 0.02
    steps: int = 300
    batch: int = 2048
    every: int = 25
    patience: int = 6


SPACE = {
    "temperature": (0.01, 0.02, 0.05, 0.1),
    "learning_rate": (0.005, 0.02, 0.05),
}


class Regressions(NamedTuple):
    """K linear functions of the standardised features, centred over the experts.

    Attributes:
        unseen: [T, N, K] float64, what each says of the training rows, out of fold.
        weight: [K, N, D] float64.
        bias: [K, N] float64.
        mean: [N] float64, what experts are worth over all rows; not part of the others.
    """

    unseen: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor


def over(settings: PricedPGSettings, objectives: Sequence[Objective]) -> PricedPGSettings:
    """The settings of the one fit that serves objectives which differ in compute weight."""
    weights = [objective.compute_weight for objective in objectives]
    low, high = positive(min(weights)) / 2.0, positive(max(weights)) * 2.0
    return replace(settings, lowest=settings.lowest or low, highest=settings.highest or high)


def fit(task: Task, settings: PricedPGSettings, run: Run) -> Router:
    """Fit the regressions, then ascend from their least squares.

    Raises:
        InputError: load is charged, which this policy does not see, or the range is not rising.
    """
    objective = task.objective
    if objective.load_weight:
        problem = "priced_pg does not learn to balance"
        raise InputError("objective.load_weight", objective.load_weight, problem, "use conditioned_pg")
    weight = positive(objective.compute_weight)
    low = weight / 8.0 if settings.lowest is None else settings.lowest
    high = weight * 8.0 if settings.highest is None else settings.highest
    if not 0.0 < low < high < math.inf:
        problem = f"does not begin a range that ends at {high:g}"
        raise InputError("settings.lowest", low, problem, "use 0 < lowest < highest")
    scorer = PricedScorer(_inputs(task) + 1, len(task.train.experts), [(low, high)])
    router = task.wrap(scorer, [declared("compute_weight", low, high)])
    outcomes = task.outcomes()
    mean = outcomes.compute.double().mean(dim=0)
    with torch.no_grad():
        scorer.compute.copy_(mean)
    found = regress(task, scorer, run.seed)
    start = _least_squares(found, outcomes.quality.double())
    log_alpha = start.clamp(min=_LEAST).log().requires_grad_()
    bias = torch.zeros_like(found.mean).requires_grad_()
    rate = settings.learning_rate
    optimizer = torch.optim.Adam([{"params": [log_alpha], "lr": rate}, {"params": [bias], "lr": rate / 20.0}])
    rows = Rows.of(task.validation, task.scale, task.device)
    judged = grid(objective, {"compute_weight": (low, high)})

    def judge(router: Router) -> Measurement:
        return together([measure_rows(router, rows, each) for each in judged])

    stopping = EarlyStopping(task, settings.patience, run.watch, judge)
    for alpha in (start, log_alpha.detach().exp()):
        _write(scorer, found, alpha, bias, settings.temperature)
        stopping.update(router, 0, settings.steps)
    generator = torch.Generator(device=task.device).manual_seed(run.seed)
    quality, compute = outcomes.quality.double(), outcomes.compute.double()
    draw: Any = {"generator": generator, "device": task.device, "dtype": torch.float64}
    for step in range(1, settings.steps + 1):
        row = torch.randint(len(quality), (settings.batch,), generator=generator, device=task.device)
        price = low * (high / low) ** torch.rand((len(row), 1), **draw)
        if settings.spread != 1.0:
            price = price * settings.spread ** (2.0 * torch.rand((len(row), len(mean)), **draw) - 1.0)
        worth = found.mean + bias + found.unseen[row] @ log_alpha.exp()
        chance = ((worth - price * mean) / settings.temperature).softmax(dim=-1)
        earned = (chance * (quality[row] - price * compute[row])).sum(dim=-1).mean()
        optimizer.zero_grad(set_to_none=True)
        (-earned).backward()
        optimizer.step()
        if step % settings.every == 0:
            _write(scorer, found, log_alpha.detach().exp(), bias, settings.temperature)
            if stopping.update(router, step, settings.steps, {"utility": float(earned.detach())}):
                break
    return stopping.best(router)


def regress(task: Task, scorer: PricedScorer, seed: int) -> Regressions:
    """The readouts of the task and ridge regressions on all features, out of fold on training rows.

    Args:
        task: training rows, and which features are readouts.
        scorer: standardises the features.
        seed: of the folds.
    """
    outcomes = task.outcomes()
    z = ((outcomes.features - scorer.shift) * scorer.scale).double()
    quality = _centred(outcomes.quality.double())
    mean = quality.mean(dim=0)
    unseen: list[Tensor] = []
    weights: list[Tensor] = []
    biases: list[Tensor] = []

    def keep(weight: Tensor, bias: Tensor, said: Tensor) -> None:
        weights.append(weight - weight.mean(dim=0))
        biases.append(bias - bias.mean() - mean)
        unseen.append(_centred(said) - mean)

    for columns in task.readouts:
        index = torch.tensor(columns, device=task.device)
        weight = torch.zeros(len(columns), z.shape[1], dtype=torch.float64, device=task.device)
        scale = scorer.scale[index].double()
        weight[torch.arange(len(columns)), index] = torch.where(scale > 0, 1.0 / scale, 0.0)
        bias = scorer.shift[index].double()
        keep(weight, bias, z @ weight.T + bias)
    folds = list(KFold(min(_FOLDS, len(z)), shuffle=True, random_state=seed).split(np.empty(len(z))))
    for penalty in _PENALTIES:
        said = torch.empty_like(quality)
        for seen, held in folds:
            weight, bias = solve_ridge(z[seen], quality[seen], penalty)
            said[held] = z[held] @ weight.T + bias
        keep(*solve_ridge(z, quality, penalty), said)
    return Regressions(torch.stack(unseen, dim=-1), torch.stack(weights), torch.stack(biases), mean)


def _least_squares(found: Regressions, quality: Tensor) -> Tensor:
    """Weights alpha [K] >= 0 by which the regressions explain how experts differ."""
    said = found.unseen.flatten(0, 1).cpu().numpy()
    wanted = (_centred(quality) - found.mean).flatten().cpu().numpy()
    alpha: Any = nnls(said, wanted)[0]
    return torch.from_numpy(alpha).to(quality)


@torch.no_grad()
def _write(scorer: PricedScorer, found: Regressions, alpha: Tensor, bias: Tensor, temperature: float) -> None:
    """Put the mixture of regressions into the scorer."""
    scorer.weight.copy_(torch.einsum("k,knd->nd", alpha, found.weight))
    scorer.bias.copy_(found.mean + bias + alpha @ found.bias)
    scorer.gain.fill_(1.0 / temperature)


def _centred(quality: Tensor) -> Tensor:
    return quality - quality.mean(dim=1, keepdim=True)


def _inputs(task: Task) -> int:
    assert task.train.features is not None
    return task.train.features.shape[1]
