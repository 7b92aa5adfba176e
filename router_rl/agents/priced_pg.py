"""A policy gradient that starts from the best of a few regressions and is kept where it is surely better.

Regressions tell what a query is worth to each expert and takes of it (`regressions.py`). The policy

    pi(a | x, c) = softmax_a((sum_k alpha_k r_k(x)_a + b_a - c compute_a demand_a(x)) / tau),  alpha_k >= 0

has one weight a regression and one bias an expert. It ascends the expected utility exactly (`exact_pg`), with
the compute weight c drawn anew for each query and, if asked, the experts' prices too. Few weights cannot fit
the noise of single outcomes, which is what stops a policy of all features. The weights c are spread so that
the stacked regressions spend evenly from the most to the least: at most weights of a wide range everybody
gets the dearest expert or everybody the cheapest, and what is decided nowhere tells nothing.

Where it starts, and whether the ascent is kept, is asked of the training rows out of fold, by the utility of
the greedy choices at these c. It starts at the last readout, which is the group's where there are
groups. Then, in this order, the best expert for all, each other readout, the mean of the first and the last,
the mean of all, the least squares of all regressions (stacking), and at last the ascent take its place if
they earn more by `caution` standard errors of the paired difference. So the result is one of the strong
baselines, or a policy that was better than it on rows that neither was fitted to. It is linear in the
features, serves every compute weight, and is repriced without training. Validation rows are only watched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experts import InputError

from ..evaluation.measure import Measurement, Rows, measure_rows
from ..folds import held_out
from ..learning import EarlyStopping
from ..method import Run
from ..objective import Objective
from ..routing import PricedScorer, Router
from ..task import Task
from .conditioned_pg import declared, grid, positive, together
from .regressions import Demand, Fold, Regressions, demanded, regressed, stacked

__all__ = ["SPACE", "PricedPGSettings", "even_weights", "fit", "over"]

_FOLDS = 5
_JUDGED = 9  # compute weights at which a start is judged
_GRID = 128  # weights among which those are sought
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
        every: steps between two measurements on validation rows, which are told and change nothing.
        caution: standard errors by which a later start, or the ascent, must be better out of fold (1 is the
            rule of Breiman et al. 1984, section 3.4.3).
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

Start = Callable[[np.ndarray], Tensor]  # rows it may be fitted to, to alpha [K]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ground:
    """What a policy of regressions is fitted to and judged by; all float64, T training rows.

    Attributes:
        quality, compute: [T, N].
        mean: [N], mean compute of each expert.
        found, demand: the regressions.
        weights: [J], rising compute weights.
    """

    quality: Tensor
    compute: Tensor
    mean: Tensor
    found: Regressions
    demand: Demand
    weights: Tensor

    def worth(self, rows: np.ndarray, alpha: Tensor, bias: Tensor) -> Tensor:
        """What the experts are worth on some rows, [M, N]."""
        return self.found.mean + bias + self.found.unseen[rows] @ alpha

    def utility(self, rows: np.ndarray, alpha: Tensor, bias: Tensor) -> np.ndarray:
        """Utility [M] of the greedy choices on some rows, mean over the compute weights."""
        worth, price = self.worth(rows, alpha, bias), self.mean * self.demand.unseen[rows]
        earned = torch.zeros(len(worth), dtype=torch.float64, device=worth.device)
        for weight in self.weights:
            choice = (worth - weight * price).argmax(dim=1, keepdim=True)
            utility = self.quality[rows] - weight * self.compute[rows]
            earned += utility.gather(1, choice).squeeze(1) / len(self.weights)
        return earned.cpu().numpy()


def over(settings: PricedPGSettings, objectives: Sequence[Objective]) -> PricedPGSettings:
    """The settings of the one fit that serves objectives which differ in compute weight."""
    weights = [objective.compute_weight for objective in objectives]
    low, high = positive(min(weights)) / 2.0, positive(max(weights)) * 2.0
    return replace(settings, lowest=settings.lowest or low, highest=settings.highest or high)


def fit(task: Task, settings: PricedPGSettings, run: Run) -> Router:
    """Fit the regressions, find the start, ascend, and return what earned most out of fold.

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
    assert task.train.features is not None
    scorer = PricedScorer(task.train.features.shape[1] + 1, len(task.train.experts), [(low, high)])
    router = task.wrap(scorer, [declared("compute_weight", low, high)])
    folds = held_out(task.train, _FOLDS, run.seed)
    ground = _ground(task, scorer, folds, low, high)
    with torch.no_grad():
        scorer.compute.copy_(ground.mean)
        scorer.demand_weight.copy_(ground.demand.weight)
        scorer.demand_bias.copy_(ground.demand.bias)
    start, earned = _best_start(ground, folds, settings.caution)
    rest = torch.zeros_like(ground.found.mean)
    every = np.arange(len(task.train))
    gain = np.zeros(len(every))
    for seen, held in folds:
        alpha, bias = _ascended(ground, seen, start(seen), settings, run.seed)
        gain[held] = ground.utility(held, alpha, bias) - earned[held]
    rows = Rows.of(task.validation, task.scale, task.device)
    judged = grid(objective, {"compute_weight": (low, high)})

    def judge(router: Router) -> Measurement:
        return together([measure_rows(router, rows, each) for each in judged])

    watched = EarlyStopping(task, settings.steps, run.watch, judge)

    def tell(step: int, alpha: Tensor, bias: Tensor) -> None:
        _write(scorer, ground.found, alpha, bias, settings.temperature)
        watched.update(router, step, settings.steps)

    tell(0, start(every), rest)
    alpha, bias = _ascended(ground, every, start(every), settings, run.seed, tell)
    if not _surely(gain, settings.caution):
        alpha, bias = start(every), rest
    _write(scorer, ground.found, alpha, bias, settings.temperature)
    return router.eval()


def _ground(task: Task, scorer: PricedScorer, folds: Sequence[Fold], low: float, high: float) -> _Ground:
    outcomes = task.outcomes()
    found, demand = regressed(task, scorer, folds), demanded(task, scorer, folds)
    quality, compute = outcomes.quality.double(), outcomes.compute.double()
    mean = compute.mean(dim=0)
    worth = found.mean + found.unseen @ stacked(found, quality, np.arange(len(quality)))
    weights = even_weights(worth, mean * demand.unseen, compute, low, high)
    return _Ground(quality=quality, compute=compute, mean=mean, found=found, demand=demand, weights=weights)


def even_weights(worth: Tensor, price: Tensor, compute: Tensor, low: float, high: float) -> Tensor:
    """Rising weights [J] at which `argmax(worth - weight * price)` spends evenly less and less.

    Args:
        worth: [T, N] float64, what each expert is thought to be worth.
        price: [T, N] float64, what it is thought to take.
        compute: [T, N] float64, what it takes.
        low, high: where weights are sought.
    """
    asked = torch.from_numpy(np.geomspace(low, high, _GRID)).to(worth)
    chosen = [(worth - weight * price).argmax(dim=1, keepdim=True) for weight in asked]
    spent = torch.stack([compute.gather(1, choice).mean() for choice in chosen])
    place = torch.arange(1, _JUDGED + 1, device=worth.device) / (_JUDGED + 1.0)
    wanted = spent[0] + (spent[-1] - spent[0]) * place
    return asked[(spent - wanted[:, None]).abs().argmin(dim=1)].sort().values


def _best_start(ground: _Ground, folds: Sequence[Fold], caution: float) -> tuple[Start, np.ndarray]:
    """The start that is surely best out of fold, in the order told above, and what it earns, [T]."""
    found = ground.found
    single = torch.eye(found.unseen.shape[-1], dtype=torch.float64, device=found.mean.device)
    plain = list(single[: found.readouts].flip(0))
    plain.insert(1, single[0] * 0.0)  # no regression: the best expert for all
    if found.readouts > 1:
        plain.append(single[[0, found.readouts - 1]].mean(dim=0))
        plain.append(single[: found.readouts].mean(dim=0))
    starts: list[Start] = [lambda _, alpha=alpha: alpha for alpha in plain]
    starts.append(lambda rows: stacked(found, ground.quality, rows))

    def earned(start: Start) -> np.ndarray:
        utility = np.empty(len(ground.quality))
        for seen, held in folds:
            utility[held] = ground.utility(held, start(seen), torch.zeros_like(found.mean))
        return utility

    best, most = starts[0], earned(starts[0])
    for each in starts[1:]:
        utility = earned(each)
        if _surely(utility - most, caution):
            best, most = each, utility
    return best, most


def _surely(gain: np.ndarray, caution: float) -> bool:
    return bool(gain.mean() > caution * gain.std() / np.sqrt(len(gain)))


def _ascended(
    ground: _Ground,
    rows: np.ndarray,
    start: Tensor,
    settings: PricedPGSettings,
    seed: int,
    tell: Callable[[int, Tensor, Tensor], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Alpha [K] and bias [N] after ascending the expected utility of some rows."""
    log_alpha = start.clamp(min=_LEAST).log().requires_grad_()
    bias = torch.zeros_like(ground.found.mean).requires_grad_()
    rate = settings.learning_rate
    optimizer = torch.optim.Adam([{"params": [log_alpha], "lr": rate}, {"params": [bias], "lr": rate / 20.0}])
    generator = torch.Generator(device=bias.device).manual_seed(seed)
    draw: Any = {"generator": generator, "device": bias.device, "dtype": torch.float64}
    among = torch.from_numpy(rows).to(bias.device)
    rungs, spread = ground.weights.log(), settings.spread
    for step in range(1, settings.steps + 1):
        row = among[torch.randint(len(rows), (settings.batch,), generator=generator, device=bias.device)]
        place = torch.rand((len(row), 1), **draw) * (len(rungs) - 1)
        below = place.long()
        price = torch.lerp(rungs[below], rungs[below + 1], place - below).exp()
        if spread != 1.0:
            price = price * spread ** (2.0 * torch.rand((len(row), len(bias)), **draw) - 1.0)
        worth = ground.found.mean + bias + ground.found.unseen[row] @ log_alpha.exp()
        expected = price * ground.mean * ground.demand.unseen[row]
        chance = ((worth - expected) / settings.temperature).softmax(dim=-1)
        earned = (chance * (ground.quality[row] - price * ground.compute[row])).sum(dim=-1).mean()
        optimizer.zero_grad(set_to_none=True)
        (-earned).backward()
        optimizer.step()
        if tell is not None and step % settings.every == 0:
            tell(step, log_alpha.detach().exp(), bias.detach())
    return log_alpha.detach().exp(), bias.detach()


@torch.no_grad()
def _write(scorer: PricedScorer, found: Regressions, alpha: Tensor, bias: Tensor, temperature: float) -> None:
    """Put the mixture of regressions into the scorer."""
    scorer.weight.copy_(torch.einsum("k,knd->nd", alpha, found.weight))
    scorer.bias.copy_(found.mean + bias + alpha @ found.bias)
    scorer.gain.fill_(1.0 / temperature)
