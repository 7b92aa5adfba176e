"""Train the policy over all sets that a query's cascade could be in: exact policy gradient, or fitted Q.

The policy gradient climbs V(nobody asked), the exact utility of the stochastic policy, by backward induction
over the sets on each query's own outcomes: no value is estimated and no step sampled. Fitted Q regresses the
worth of every step in every set on what it earns if the policy goes on from there. Alone the gradient stays
where it first comes to, since it learns nothing of steps that it does not take; so the regression goes beside
it and fades to nothing.

Compute weights are drawn anew for every query, so one policy serves them all. A query's sets are those of
`pool` experts that look worth asking, with noise. A member does not see the rows of its fold and keeps the
weights that were best on them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from experts import InputError

from ...problems.cascade.cascade_data import CascadeData
from ...problems.cascade.lattice import Lattice
from ...routing.policies.cascade_policy import CascadePolicy

__all__ = ["CascadeHyperparameters", "fit_cascade", "greedy_utility"]

_EASE = 0.98  # of the slow copy a step: what is kept of it
_NOISE = 0.4  # of utility: how much chance has in who is in a query's pool


@dataclass(frozen=True, kw_only=True)
class CascadeHyperparameters:
    """Settings of both learners.

    Attributes:
        steps: of a member, gradient steps, rounded to whole passes over the rows that it sees.
        batch: queries a step.
        learning_rate: at the start; it falls in a line to 0.
        weight_decay: of AdamW.
        learner: `gradient`, or `regression` for fitted Q.
        regression: of the gradient: how much the regression counts beside it at the start.
        pool: experts whose sets a query is trained on.
        hidden: width of the network.
        members: networks, each blind to its own fold; at most 5.
        lightest, heaviest: compute weights are drawn between them, evenly in their logarithm.
    """

    steps: int = 320
    batch: int = 128
    learning_rate: float = 6e-3
    weight_decay: float = 0.05
    learner: Literal["gradient", "regression"] = "gradient"
    regression: float = 1.0
    pool: int = 5
    hidden: int = 48
    members: int = 5
    lightest: float = 0.015
    heaviest: float = 0.5

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "learning_rate", "pool", "hidden", "members", "lightest"):
            if getattr(self, name) <= 0:
                raise InputError(f"settings.{name}", getattr(self, name), "not positive", "use more than 0")
        if self.learner not in ("gradient", "regression"):
            raise InputError("settings.learner", self.learner, "unknown", "use gradient or regression")
        if self.members > 5:
            raise InputError("settings.members", self.members, "there are 5 folds", "use 1 to 5")
        if self.heaviest < self.lightest:
            raise InputError("settings.heaviest", self.heaviest, "below the lightest", "use more")


Tell = Callable[[int, int, str], None]


def fit_cascade(
    data: CascadeData,
    limit: int,
    weights: Sequence[float],
    settings: CascadeHyperparameters,
    seed: int,
    tell: Tell | None = None,
) -> tuple[CascadePolicy, float]:
    """Fit one policy for all compute weights.

    Args:
        data: rows to learn from.
        limit: the most experts asked.
        weights: compute weights for whose mean utility a checkpoint is kept.
        settings: of the learner.
        seed: of everything random.
        tell: is told of every pass: steps done, all steps, what.

    Returns:
        the policy, and the mean utility of its members over the rows each has not seen.
    """
    lattice = Lattice(min(settings.pool, len(data.names)), limit)
    members: list[CascadePolicy] = []
    utilities: list[float] = []
    for fold in range(settings.members):
        generator = torch.Generator().manual_seed(1_000 * seed + fold)

        def told(step: int, what: str, fold: int = fold) -> None:
            if tell is not None:
                done = fold * settings.steps + min(step, settings.steps)
                tell(done, settings.members * settings.steps, f"member {fold + 1}: {what}")

        member = _new(data, limit, settings, 1).initialise(generator)
        utilities.append(_train(member, data, lattice, fold, weights, settings, generator, told))
        members.append(member)
    together = _new(data, limit, settings, settings.members)
    with torch.no_grad():
        for name, weight in together.named_parameters():
            if not name.startswith("beliefs."):
                weight.copy_(torch.cat([member.get_parameter(name) for member in members]))
    return together.requires_grad_(False).eval(), sum(utilities) / len(utilities)


def greedy_utility(policy: CascadePolicy, data: CascadeData, rows: Tensor, weight: float) -> Tensor:
    """What the greedy policy earns on training rows [B], by beliefs that have not seen them; [B]."""
    asked = torch.zeros(len(rows), len(data.names), dtype=torch.bool)
    earned = torch.zeros(len(rows))
    left = torch.arange(len(rows))
    with torch.no_grad():
        while len(left):
            row, told = rows[left], asked[left]
            state = _state(policy, data, row, told, torch.full((len(left),), weight))
            may = torch.cat([state[3], state[2]], dim=-1)
            action = policy.chance(policy.values(*state), may).mean(dim=0).argmax(dim=-1)
            expert = action % len(data.names)
            asks = action < len(data.names)
            quality, compute = (part[row, expert] for part in (data.quality, data.compute))
            earned[left] += torch.where(asks, -weight * compute, quality)
            left, expert = left[asks], expert[asks]
            asked[left, expert] = True
    return earned


def _state(
    policy: CascadePolicy, data: CascadeData, rows: Tensor, asked: Tensor, weight: Tensor
) -> tuple[Tensor, ...]:
    """What `CascadePolicy.values` takes, for rows [B] in sets [B, N]."""
    askable = ~asked & (asked.sum(dim=-1, keepdim=True) < policy.limit)
    agree = data.same[rows] * asked.unsqueeze(-1) * asked.unsqueeze(-2)
    return data.fitted.prior[rows], data.fitted.posterior[rows], asked, askable, agree, weight


class Learner(NamedTuple):
    """How much the policy gradient and the regression count."""

    climb: float
    regress: float


class _Sets(NamedTuple):
    """B queries in all S sets of their K experts.

    Attributes:
        state: what `CascadePolicy.values` takes, [B S, ...].
        quality: [B, K].
        price: [B, K], compute times its weight.
    """

    state: tuple[Tensor, ...]
    quality: Tensor
    price: Tensor


def _everywhere(data: CascadeData, lattice: Lattice, rows: Tensor, weight: Tensor, who: Tensor) -> _Sets:
    """Queries in all sets of some experts each, `who` [B, K]; the others are as dead."""
    count = len(lattice.asked)
    place = rows.unsqueeze(-1)
    same = data.same[place.unsqueeze(-1), who.unsqueeze(-1), who.unsqueeze(-2)]
    pairs = lattice.asked.unsqueeze(-1) & lattice.asked.unsqueeze(-2)
    prior, posterior, unit, whose = (
        part.repeat_interleave(count, dim=0)
        for part in (data.fitted.prior[place, who], data.fitted.posterior[place, who], weight, who)
    )
    asked, askable = (part.repeat(len(rows), 1) for part in (lattice.asked, lattice.askable))
    state = (prior, posterior, asked, askable, (same.unsqueeze(1) * pairs).flatten(0, 1), unit, whose)
    return _Sets(state, data.quality[place, who], data.compute[place, who] * weight.unsqueeze(-1))


def _loss(policy: CascadePolicy, lattice: Lattice, sets: _Sets, learner: Learner) -> Tensor:
    """What is minimised: minus the exact utility of the stochastic policy, and the regression."""
    rows = len(sets.quality)
    worth = policy.values(*sets.state)[0].unflatten(0, (rows, -1))
    may = torch.cat([lattice.askable, lattice.asked], dim=-1)
    chance = policy.chance(worth, may)
    value = lattice.values(chance, sets.quality, sets.price)
    loss = -learner.climb * value[:, 0].mean()
    if learner.regress > 0.0:
        on = value.detach()
        ask = on[:, lattice.child] - sets.price.unsqueeze(1)
        earned = torch.cat([ask, sets.quality.unsqueeze(1).expand_as(ask)], dim=-1)
        error = ((worth - earned) ** 2 * may).sum() / (may.sum() * rows)
        loss = loss + learner.regress * error
    return loss


def _new(data: CascadeData, limit: int, settings: CascadeHyperparameters, members: int) -> CascadePolicy:
    beliefs = copy.deepcopy(data.fitted.beliefs)
    features = data.table.outcomes.features.shape[1]
    return CascadePolicy(
        data.names,
        features,
        min(limit, len(data.names)),
        data.table.price.tolist(),
        beliefs,
        members=members,
        hidden=settings.hidden,
    )


def _mean_utility(policy: CascadePolicy, data: CascadeData, rows: Tensor, weights: Sequence[float]) -> float:
    found = [float(greedy_utility(policy, data, rows, weight).mean()) for weight in weights]
    return sum(found) / len(found)


def _train(
    policy: CascadePolicy,
    data: CascadeData,
    lattice: Lattice,
    fold: int,
    weights: Sequence[float],
    settings: CascadeHyperparameters,
    generator: torch.Generator,
    tell: Callable[[int, str], None],
) -> float:
    """Train a member in place, to its best checkpoint on the fold it does not see; the utility there."""
    own = data.fitted.fold == fold
    seen, held = (part.nonzero().squeeze(-1) for part in (~own, own))
    learned = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    a_pass = math.ceil(len(seen) / settings.batch)
    passes = max(1, round(settings.steps / a_pass))
    steps = passes * a_pass
    slow = copy.deepcopy(policy)
    low, high = math.log(settings.lightest), math.log(settings.heaviest)
    best, kept, step = -math.inf, slow.state_dict(), 0
    for _ in range(passes):
        for batch in torch.randperm(len(seen), generator=generator).split(settings.batch):
            rows = seen[batch]
            weight = torch.empty(len(rows)).uniform_(low, high, generator=generator).exp()
            who = _pool(data, rows, weight, lattice.asked.shape[1], generator)
            sets = _everywhere(data, lattice, rows, weight, who)
            left = 1.0 - step / steps
            gradient = settings.learner == "gradient"
            learner = Learner(1.0, settings.regression * left) if gradient else Learner(0.0, 1.0)
            loss = _loss(policy, lattice, sets, learner)
            optimizer.param_groups[0]["lr"] = settings.learning_rate * left
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            with torch.no_grad():
                for ours, theirs in zip(slow.parameters(), policy.parameters(), strict=True):
                    ours.lerp_(theirs, 1.0 - _EASE)
        found = _mean_utility(slow, data, held, weights)
        if found > best:
            best, kept = found, copy.deepcopy(slow.state_dict())
        tell(step, f"utility on rows it has not seen {found:.4f}, best {best:.4f}")
    policy.load_state_dict(kept)
    return best


def _pool(data: CascadeData, rows: Tensor, weight: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Experts that look worth asking, with Gumbel noise, in order of their ids: [B, size] int64."""
    worth = data.fitted.prior[rows].sigmoid() - weight.unsqueeze(-1) * data.table.price
    uniform = torch.rand(worth.shape, generator=generator).clamp(min=1e-9)
    noisy = worth / _NOISE - (-uniform.log()).log()
    return noisy.topk(size, dim=-1).indices.sort(dim=-1).values
