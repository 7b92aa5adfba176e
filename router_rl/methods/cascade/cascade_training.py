"""Train the cascade policy over all sets of asked experts: exact policy gradient, or fitted Q.

The policy gradient ascends V(no expert asked), the exact utility of the stochastic policy, by backward
induction over the sets on each query's own outcomes: no value is estimated and no step is sampled. Fitted Q
regresses the value of every step in every set on what the step earns if the policy continues from there. The
gradient alone stays in its first local optimum, because it learns nothing about steps that it does not take.
So the regression is added to it with a weight that decays to 0.

A compute weight is drawn for every query of a batch, so one policy serves all compute weights. A query's sets
are those of `pool` experts that are likely to be worth asking, drawn with noise. Each member of the ensemble
is trained without the rows of its fold, and keeps the weights that were best on that fold.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from experts import InputError
from experts.io.value_range import Count, NonNegative, Positive, Range, Size, Width

from ...problems.cascade.cascade_data import CascadeData
from ...problems.cascade.lattice import Lattice
from ...problems.cascade.problem import CascadeProblem
from ...problems.measure import Measurement
from ...problems.problem import ActionPolicy
from ...routing.policies.cascade_policy import CascadePolicy
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = [
    "METHODS",
    "SPACE",
    "CascadeHyperparameters",
    "ExactPGHyperparameters",
    "LossWeights",
    "fit_cascade",
    "fit_exact_pg",
    "fit_fitted_q",
    "greedy_utility",
]

_AVERAGING = 0.98  # of the exponential moving average of the weights, a step
_NOISE = 0.4  # of utility: the scale of the noise that draws a query's pool
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class CascadeHyperparameters(Hyperparameters):
    """Hyperparameters of fitted Q, and of the exact policy gradient too.

    Attributes:
        steps: gradient steps of a member, rounded to whole epochs over its rows.
        batch: queries per gradient step.
        learning_rate: initial learning rate of AdamW; decays linearly to 0.
        weight_decay: weight decay of AdamW.
        pool: number of experts per query whose sets are trained on.
        hidden: width of the hidden layers.
        members: number of networks of the ensemble, each trained without its own fold; at most 5.
        min_weight, max_weight: range of the compute weights drawn, uniform in their logarithm.

    Raises:
        InputError: a value is out of range.
    """

    steps: Size = 320
    batch: Count = 128
    learning_rate: Positive = 6e-3
    weight_decay: NonNegative = 0.05
    pool: Width = 5
    hidden: Width = 48
    members: Annotated[int, Range(1, _FOLDS)] = 5
    min_weight: Positive = 0.015
    max_weight: Positive = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_weight < self.min_weight:
            raise InputError("method.max_weight", self.max_weight, "is below min_weight", "use more")


@dataclass(frozen=True, kw_only=True)
class ExactPGHyperparameters(CascadeHyperparameters):
    """Hyperparameters of the exact policy gradient: those of fitted Q and one more.

    Attributes:
        regression: weight of the regression beside the policy gradient at the start; decays linearly to 0.
    """

    regression: NonNegative = 1.0


class LossWeights(NamedTuple):
    """Weights of the policy gradient and of the regression in the loss."""

    gradient: float
    regression: float


Schedule = Callable[[float], LossWeights]
"""Maps the fraction of the steps that is left to the weights of the loss."""

Report = Callable[[int, int, str, "Measurement | None"], None]
"""Is passed the steps done, all steps, a message, and the measurement on the held-out fold."""


def fit_exact_pg(problem: CascadeProblem, hyperparameters: ExactPGHyperparameters, run: Run) -> ActionPolicy:
    """Train a policy for all compute weights by the exact policy gradient."""

    def schedule(left: float) -> LossWeights:
        return LossWeights(gradient=1.0, regression=hyperparameters.regression * left)

    return _fit(problem, hyperparameters, run, schedule)


def fit_fitted_q(problem: CascadeProblem, hyperparameters: CascadeHyperparameters, run: Run) -> ActionPolicy:
    """Train a policy for all compute weights by fitted Q."""
    return _fit(problem, hyperparameters, run, lambda left: LossWeights(gradient=0.0, regression=1.0))


def fit_cascade(
    data: CascadeData,
    max_experts: int,
    weights: Sequence[float],
    hyperparameters: CascadeHyperparameters,
    schedule: Schedule,
    *,
    seed: int,
    report: Report | None = None,
) -> tuple[CascadePolicy, float]:
    """Fit one policy for all compute weights.

    Args:
        data: rows to learn from.
        max_experts: maximum number of experts asked.
        weights: compute weights; the checkpoint with the highest mean utility over them is kept.
        hyperparameters: of the learner.
        schedule: the weights of the loss.
        seed: of everything random.
        report: is called after every epoch.

    Returns:
        the policy, and the mean utility of its members on their held-out folds.
    """
    lattice = Lattice(min(hyperparameters.pool, len(data.experts)), max_experts)
    members: list[CascadePolicy] = []
    utilities: list[float] = []
    total = hyperparameters.members * hyperparameters.steps
    for fold in range(hyperparameters.members):
        generator = torch.Generator().manual_seed(1_000 * seed + fold)

        def after_epoch(step: int, held_out: Sequence[Tensor], best: float, fold: int = fold) -> None:
            if report is not None:
                done = fold * hyperparameters.steps + min(step, hyperparameters.steps)
                message = f"member {fold + 1} of {hyperparameters.members}, best held-out utility {best:.4f}"
                middle = held_out[(len(held_out) - 1) // 2]
                report(done, total, message, Measurement(utility=middle.numpy(), parts={}))

        member = _new_policy(data, max_experts, hyperparameters, 1).initialise(generator)
        training = _Training(data, lattice, fold, weights, hyperparameters, schedule)
        utilities.append(training.run(member, generator, after_epoch))
        members.append(member)
    ensemble = _new_policy(data, max_experts, hyperparameters, hyperparameters.members)
    with torch.no_grad():
        for name, weight in ensemble.named_parameters():
            if not name.startswith("beliefs."):
                weight.copy_(torch.cat([member.get_parameter(name) for member in members]))
    return ensemble.requires_grad_(False).eval(), sum(utilities) / len(utilities)


def greedy_utility(
    policy: CascadePolicy, data: CascadeData, rows: Tensor, weight: float, *, member: int | None = None
) -> Tensor:
    """Return the utility of the greedy policy on rows of the data, by their cross-fitted beliefs.

    Args:
        policy: the policy.
        data: rows that it learns from.
        rows: [B] int64.
        weight: utility per unit of compute.
        member: which member decides; None: all by their mean.

    Returns:
        [B] float32.
    """
    asked = torch.zeros(len(rows), len(data.experts), dtype=torch.bool)
    utility = torch.zeros(len(rows))
    left = torch.arange(len(rows))
    with torch.no_grad():
        while len(left):
            row = rows[left]
            state = _state(policy, data, row, asked[left], torch.full((len(left),), weight))
            valid = torch.cat([state[3], state[2]], dim=-1)
            chance = policy.chance(policy.values(*state), valid)
            action = (chance.mean(dim=0) if member is None else chance[member]).argmax(dim=-1)
            expert = action % len(data.experts)
            asks = action < len(data.experts)
            quality, compute = (part[row, expert] for part in (data.quality, data.compute))
            utility[left] += torch.where(asks, -weight * compute, quality)
            left, expert = left[asks], expert[asks]
            asked[left, expert] = True
    return utility


def _fit(
    problem: CascadeProblem, hyperparameters: CascadeHyperparameters, run: Run, schedule: Schedule
) -> ActionPolicy:
    policy, _ = fit_cascade(
        problem.data(run.seed),
        problem.options.max_experts,
        problem.weights,
        hyperparameters,
        schedule,
        seed=run.seed,
        report=run.report,
    )
    return ActionPolicy(actions=policy.act, module=policy)


def _state(
    policy: CascadePolicy, data: CascadeData, rows: Tensor, asked: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    """Return the arguments of `CascadePolicy.values`, for rows [B] with asked experts [B, N]."""
    askable = ~asked & (asked.sum(dim=-1, keepdim=True) < policy.limit)
    if data.table.after is not None:
        askable = askable & ((data.table.after < 0) | asked[:, data.table.after.clamp(min=0)])
    agree = data.same[rows] * asked.unsqueeze(-1) * asked.unsqueeze(-2)
    return data.fitted.prior[rows], data.fitted.posterior[rows], asked, askable, agree, weight


class _Sets(NamedTuple):
    """B queries in all S sets of their K experts.

    Attributes:
        state: the arguments of `CascadePolicy.values`, [B S, ...].
        quality: [B, K].
        price: [B, K], compute times its weight.
        valid: [S, 2 K] or [B, S, 2 K] bool, the valid actions.
    """

    state: tuple[Tensor, ...]
    quality: Tensor
    price: Tensor
    valid: Tensor


def _in_all_sets(data: CascadeData, lattice: Lattice, rows: Tensor, weight: Tensor, who: Tensor) -> _Sets:
    """Return queries in all sets of some of their experts, `who` [B, K]; the others cannot be asked."""
    count = len(lattice.asked)
    place = rows.unsqueeze(-1)
    same = data.same[place.unsqueeze(-1), who.unsqueeze(-1), who.unsqueeze(-2)]
    pairs = lattice.asked.unsqueeze(-1) & lattice.asked.unsqueeze(-2)
    prior, posterior, unit, experts = (
        part.repeat_interleave(count, dim=0)
        for part in (data.fitted.prior[place, who], data.fitted.posterior[place, who], weight, who)
    )
    asked, askable = (part.repeat(len(rows), 1) for part in (lattice.asked, lattice.askable))
    valid = torch.cat([lattice.askable, lattice.asked], dim=-1)
    if data.table.after is not None:
        ready = lattice.ready(data.table.after, who)
        askable = askable & ready.flatten(0, 1)
        valid = torch.cat([lattice.askable & ready, lattice.asked.expand_as(ready)], dim=-1)
    agree = (same.unsqueeze(1) * pairs).flatten(0, 1)
    state = (prior, posterior, asked, askable, agree, unit, experts)
    return _Sets(state, data.quality[place, who], data.compute[place, who] * weight.unsqueeze(-1), valid)


def _loss(policy: CascadePolicy, lattice: Lattice, sets: _Sets, weights: LossWeights) -> Tensor:
    """Return minus the exact utility of the stochastic policy, and the regression."""
    rows = len(sets.quality)
    worth = policy.values(*sets.state)[0].unflatten(0, (rows, -1))
    chance = policy.chance(worth, sets.valid)
    value = lattice.values(chance, sets.quality, sets.price)
    loss = -weights.gradient * value[:, 0].mean()
    if weights.regression > 0.0:
        after = value.detach()
        ask = after[:, lattice.child] - sets.price.unsqueeze(1)
        target = torch.cat([ask, sets.quality.unsqueeze(1).expand_as(ask)], dim=-1)
        valid = sets.valid if sets.valid.ndim == 3 else sets.valid.expand_as(worth)
        error = ((worth - target) ** 2 * valid).sum() / valid.sum()
        loss = loss + weights.regression * error
    return loss


def _new_policy(
    data: CascadeData, max_experts: int, hyperparameters: CascadeHyperparameters, members: int
) -> CascadePolicy:
    return CascadePolicy(
        data.experts,
        data.table.outcomes.features.shape[1],
        min(max_experts, len(data.experts)),
        data.table.price.tolist(),
        copy.deepcopy(data.fitted.beliefs),
        members=members,
        hidden=hyperparameters.hidden,
        after=None if data.table.after is None else data.table.after.tolist(),
    )


class _Training(NamedTuple):
    """What one member is trained on."""

    data: CascadeData
    lattice: Lattice
    fold: int
    weights: Sequence[float]
    hyperparameters: CascadeHyperparameters
    schedule: Schedule

    def run(
        self,
        policy: CascadePolicy,
        generator: torch.Generator,
        after_epoch: Callable[[int, Sequence[Tensor], float], None],
    ) -> float:
        """Train a member in place, to its best checkpoint on its held-out fold; the utility there."""
        hyperparameters, data = self.hyperparameters, self.data
        own = data.fitted.fold == self.fold
        rows, held_out = (part.nonzero().squeeze(-1) for part in (~own, own))
        learned = [weight for weight in policy.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(
            learned, lr=hyperparameters.learning_rate, weight_decay=hyperparameters.weight_decay
        )
        in_epoch = math.ceil(len(rows) / hyperparameters.batch)
        epochs = max(1, round(hyperparameters.steps / in_epoch))
        averaged = copy.deepcopy(policy)
        low, high = math.log(hyperparameters.min_weight), math.log(hyperparameters.max_weight)
        best, kept, step = -math.inf, averaged.state_dict(), 0
        for _ in range(epochs):
            for batch in torch.randperm(len(rows), generator=generator).split(hyperparameters.batch):
                row = rows[batch]
                weight = torch.empty(len(row)).uniform_(low, high, generator=generator).exp()
                who = _pool(data, row, weight, self.lattice.asked.shape[1], generator)
                left = 1.0 - step / (epochs * in_epoch)
                sets = _in_all_sets(data, self.lattice, row, weight, who)
                loss = _loss(policy, self.lattice, sets, self.schedule(left))
                optimizer.param_groups[0]["lr"] = hyperparameters.learning_rate * left
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                with torch.no_grad():
                    for ours, theirs in zip(averaged.parameters(), policy.parameters(), strict=True):
                        ours.lerp_(theirs, 1.0 - _AVERAGING)
            utility = [greedy_utility(averaged, data, held_out, weight) for weight in self.weights]
            mean = sum(float(each.mean()) for each in utility) / len(utility)
            if mean > best:
                best, kept = mean, copy.deepcopy(averaged.state_dict())
            after_epoch(step, utility, best)
        policy.load_state_dict(kept)
        return best


def _pool(data: CascadeData, rows: Tensor, weight: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return experts that are likely worth asking, drawn by Gumbel noise, sorted: [B, size] int64."""
    worth = data.fitted.prior[rows].sigmoid() - weight.unsqueeze(-1) * data.table.price
    uniform = torch.rand(worth.shape, generator=generator).clamp(min=1e-9)
    noisy = worth / _NOISE - (-uniform.log()).log()
    return noisy.topk(size, dim=-1).indices.sort(dim=-1).values


SPACE = {
    "weight_decay": (0.05, 0.3),
    "hidden": (32, 48),
    "learning_rate": (6e-3, 1e-2),
}

METHODS = (
    Method(
        name="exact_pg",
        family="rl",
        full_information=True,
        fit=fit_exact_pg,
        hyperparameters=ExactPGHyperparameters,
        space={"regression": (0.3, 1.0), **SPACE},
        about="exact policy gradient; one policy for all compute weights",
        amortizes=True,
    ),
    Method(
        name="fitted_q",
        family="rl",
        full_information=True,
        fit=fit_fitted_q,
        hyperparameters=CascadeHyperparameters,
        space=SPACE,
        about="fitted Q-iteration; one policy for all compute weights",
        amortizes=True,
    ),
)
