"""Policy iteration by rollouts: try every expert at a state, see what follows, and learn to choose so.

The process can be copied. At states that the policy visits, the lane is forked once for each expert; each
fork sends the request to its expert and then follows the policy for a while, all meeting the same requests,
service times, arrivals and outages (common random numbers), so that what they earn differs by the choice
alone. The next policy's prices (`QueueScorer.prices`) come from these advantages in two ways: by regression,
which makes scores of them, and by ascending `sum_e pi(e | s) A(s, e)`, the policy gradient with the sum over
experts taken exactly. Of both, at several penalties and temperatures, and of steps part of the way, the best
on validation is kept. It begins as the tuned index rule, and stays it where nothing is better by more than
the noise of the validation episodes.

Quality and compute of the forks are the scorer's predictions, not the outcomes: one outcome of 0 or 1 is far
noisier than what it would say about the choice. Waits, lateness and misses are the simulation's.

Sources: rollouts, Tesauro and Galperin 1996, https://papers.nips.cc/paper/1302; least-squares policy
iteration, Lagoudakis and Parr 2003, https://jmlr.org/papers/v4/lagoudakis03a.html (with rollouts in place of
their temporal differences); the gradient over all actions, Sutton et al. 2000, theorem 1; common random
numbers, Ng and Jordan 2000, https://arxiv.org/abs/1301.3878.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from envs import Outcomes, QueueingCore

from ...problems.queueing.queue_measurement import play_queues
from ...problems.queueing.queue_task import QueueTask
from ...routing import QueueScorer, Router
from .index_rule import IndexHyperparameters, fit_index

__all__ = ["RolloutHyperparameters", "Tried", "ascend", "fit_rollouts", "regress"]

Watch = Callable[[int, int, float, float], None]
"""Is told: rounds done, rounds in all, validation utility of the policy, and of the index rule."""

_CLIP, _MOST = 1.5, 2.0  # utility: beyond, an advantage says that a choice is bad, not how bad


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutHyperparameters:
    """Hyperparameters.

    Attributes:
        index: how the index rule is tuned, from which it starts.
        rounds: of forking and fitting.
        states: tried in each round; fits are to the states of all rounds so far.
        follow: requests that each fork plays; under a budget it plays to the end, where the bill comes, and a
            quarter of the states is tried.
        experts: tried at a state, the best by score; all where there are no more.
        lanes: episodes played at a time.
        explore: share of requests that go to a random expert while states are visited.
        penalties: of the regression, as multiples of the states.
        temperatures: of the policy that ascends, utility.
        learning_rate, epochs, batch: of Adam, which ascends; `batch` states a step.
        steps: how far to go towards a fit.
        validation_lanes: episodes that choose.
        guard: standard errors by which a policy must be better than the index rule to replace it.
    """

    index: IndexHyperparameters = field(default_factory=IndexHyperparameters)
    rounds: int = 2
    states: int = 3_000
    follow: int = 64
    experts: int = 6
    lanes: int = 128
    explore: float = 0.05
    penalties: tuple[float, ...] = (0.01, 0.1)
    temperatures: tuple[float, ...] = (0.1,)
    learning_rate: float = 0.01
    epochs: int = 10
    batch: int = 256
    steps: tuple[float, ...] = (0.5, 1.0)
    validation_lanes: int = 96
    guard: float = 2.0


class Tried(NamedTuple):
    """M states and what K experts of each would have led to.

    Attributes:
        scored: [M, K], the index of each.
        priced: [M, K, P], what the scorer prices.
        earned: [M, K], the return of its fork.
    """

    scored: Tensor
    priced: Tensor
    earned: Tensor


def fit_rollouts(
    task: QueueTask,
    settings: RolloutHyperparameters,
    seed: int = 0,
    watch: Watch | None = None,
    start: Router | None = None,
) -> Router:
    """Train a policy from the tuned index rule, or from another index if one is given."""
    router = start or fit_index(task, settings.index, seed)
    scorer = cast(QueueScorer, router.scorer)
    scorer.prices.zero_()
    (index_alone,) = _validate(task, scorer, scorer.prices.unsqueeze(0), settings)
    best = index_alone
    seen: list[Tried] = []
    for number in range(settings.rounds):
        seen.append(_try_experts(task, scorer, settings, 10_000 * seed + 1_000 * number))
        tried = Tried(*(torch.cat(part) for part in zip(*seen, strict=True)))
        now = scorer.prices.clone()
        aims = [regress(tried, penalty) for penalty in settings.penalties]
        aims += [ascend(tried, now, settings, warmth, seed) for warmth in settings.temperatures]
        ways = torch.stack(
            [now + step * (aim - now) for aim, step in itertools.product(aims, settings.steps)]
        )
        for prices, found in zip(ways, _validate(task, scorer, ways, settings), strict=True):
            gain = found - index_alone
            sure = gain.mean() > settings.guard * gain.std() / np.sqrt(len(gain))
            if sure and found.mean() > best.mean():
                best = found
                scorer.prices.copy_(prices)
        if watch is not None:
            watch(number + 1, settings.rounds, float(best.mean()), float(index_alone.mean()))
    return router


def regress(tried: Tried, penalty: float) -> Tensor:
    """Prices [P] float32 that explain what the index does not, by ridge regression within states.

    Args:
        tried: the states.
        penalty: on the squared prices of standardised products, as a multiple of the states.
    """
    x = tried.priced - tried.priced.mean(dim=1, keepdim=True)
    y = tried.earned - tried.scored
    y = (y - y.mean(dim=1, keepdim=True)).clamp(-_CLIP, _CLIP).flatten().double()
    x = x.flatten(0, 1).double()
    spread = x.std(dim=0)
    used = spread > 1e-6  # a product that never varies has no price
    x = x[:, used] / spread[used]
    gram = x.T @ x / len(x) + penalty * torch.eye(x.shape[1], dtype=x.dtype)
    prices = torch.zeros(len(spread), dtype=torch.float64)
    prices[used] = torch.linalg.solve(gram, x.T @ y / len(x)) / spread[used]
    return prices.float()


def ascend(
    tried: Tried, start: Tensor, settings: RolloutHyperparameters, temperature: float, seed: int = 0
) -> Tensor:
    """Prices [P] float32 whose softmax policy has a higher expected advantage over the states' experts.

    Args:
        tried: the states.
        start: [P], prices to start from.
        settings: learning rate, epochs and batch.
        temperature: of the policy, utility.
        seed: of the order of the states.
    """
    generator = torch.Generator().manual_seed(seed)
    spread = (tried.priced - tried.priced.mean(dim=1, keepdim=True)).flatten(0, 1).std(dim=0)
    scale = torch.where(spread > 1e-6, 1.0 / spread.clamp(min=1e-6), 0.0)
    gain = (tried.earned - tried.earned.mean(dim=1, keepdim=True)).clamp(-_MOST, _MOST)
    x = tried.priced * scale
    prices = torch.nn.Parameter(start * spread)
    optimizer = torch.optim.Adam([prices], lr=settings.learning_rate)
    with torch.enable_grad():
        for _ in range(settings.epochs):
            for rows in torch.randperm(len(x), generator=generator).split(settings.batch):
                chance = ((tried.scored[rows] + x[rows] @ prices) / temperature).softmax(dim=-1)
                loss = -(chance * gain[rows]).sum(dim=-1).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
    return prices.detach() * scale


def _validate(
    task: QueueTask, scorer: QueueScorer, prices: Tensor, settings: RolloutHyperparameters
) -> np.ndarray:
    """Utility [M, B] of each validation episode under each prices [M, P]; all are played at once."""
    count, lanes = len(prices), settings.validation_lanes
    core = task.core("validation", count * lanes, seed=500_000, group=count)
    each = prices.repeat(lanes, 1)

    def act(core: QueueingCore, seen: Tensor) -> Tensor:
        return scorer.scores(seen, each).argmax(dim=-1)

    return play_queues(core, act).utility.reshape(lanes, count).T


@torch.no_grad()
def _try_experts(task: QueueTask, scorer: QueueScorer, settings: RolloutHyperparameters, seed: int) -> Tried:
    """Visit states with the policy and fork at some of them."""
    generator = torch.Generator().manual_seed(seed)
    core = task.core("train", settings.lanes, seed=seed)
    core.outcomes = _predicted(core, scorer)
    count, lanes = min(settings.experts, core.experts), torch.arange(settings.lanes)
    window, budget = core.config.window, core.config.budget is not None
    follow = window if budget else min(settings.follow, window)
    count_times = -(-settings.states // settings.lanes // (4 if budget else 1))
    times = _spread(window if budget else window - follow + 1, count_times, generator)
    found: list[Tried] = []
    for time in range(times[-1] + 1):
        index, priced = scorer.priced(core.observation())
        score = index + priced @ scorer.prices
        if time in times:
            experts = score.topk(count, dim=-1).indices
            fork = core.fork(lanes.repeat_interleave(count))
            earned = _follow(fork, experts.flatten(), scorer, min(follow, window - time))
            each = priced.gather(1, experts.unsqueeze(-1).expand(-1, -1, priced.shape[-1]))
            found.append(Tried(index.gather(1, experts), each, earned.reshape(-1, count)))
        wanders = torch.rand(len(score), generator=generator) < settings.explore
        elsewhere = torch.randint(core.experts, (len(score),), generator=generator)
        core.step(torch.where(wanders, elsewhere, score.argmax(dim=-1)))
    return Tried(*(torch.cat(part) for part in zip(*found, strict=True)))


def _predicted(core: QueueingCore, scorer: QueueScorer) -> Outcomes:
    """The outcomes with quality and compute as the scorer predicts them."""
    x = (core.outcomes.features - scorer.shift) * scorer.scale
    quality, compute, _ = scorer.estimate(x).chunk(3, dim=-1)
    return replace(core.outcomes, quality=quality, compute=compute)


def _spread(steps: int, count: int, generator: torch.Generator) -> list[int]:
    """Times in 0..steps - 1 at which to fork, one drawn from each of equal stretches."""
    stretch = max(steps // max(count, 1), 1)
    starts = torch.arange(0, steps - stretch + 1, stretch)[:count]
    return (starts + torch.randint(stretch, starts.shape, generator=generator)).tolist()


def _follow(fork: QueueingCore, experts: Tensor, scorer: QueueScorer, steps: int) -> Tensor:
    """Returns [M] float32 of sending the requests to these experts [M], then as the policy does."""
    earned = fork.step(experts).reward.double()
    for _ in range(steps - 1):
        earned += fork.step(scorer(fork.observation()).argmax(dim=-1)).reward
    return earned.float()
