"""Policy iteration by rollouts: try every expert in a state, simulate the rest, and learn from the returns.

The environment can be copied. At states that the policy visits, the lane is forked once for each expert. Each
fork sends the request to its expert and then follows the policy for some requests. All forks get the same
requests, service times, arrivals and outages (common random numbers), so their returns differ by the choice
only. At its end a fork pays what the requests in flight will cost if no other follows (`settle`). The next
policy's prices (`QueueScorer.prices`) come from these advantages in two ways: by regression, which fits
scores to them, and by gradient ascent on `sum_e pi(e | s) A(s, e)`, the policy gradient with the sum over
experts taken exactly. Of both, at several penalties and temperatures and with several step sizes, the best on
validation is kept. The first policy is the tuned index rule; it is replaced only by a policy that is better
by more than the noise of the validation episodes.

Quality and compute of the forks are the scorer's predictions, not the outcomes: one outcome of 0 or 1 is far
noisier than the difference between two choices. Waits, lateness and misses are simulated.

Sources: rollouts, Tesauro and Galperin 1996, https://papers.nips.cc/paper/1302; least-squares policy
iteration, Lagoudakis and Parr 2003, https://jmlr.org/papers/v4/lagoudakis03a.html (with rollouts in place of
their temporal differences); the gradient over all actions, Sutton et al. 2000, theorem 1; common random
numbers, Ng and Jordan 2000, https://arxiv.org/abs/1301.3878.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import Outcomes, QueueingCore
from experts.io.value_range import Count, Fraction, Positive, Share, Size

from ...problems.measure import Measurement
from ...problems.problem import ActionPolicy
from ...problems.queueing.problem import QueueingProblem
from ...problems.queueing.queue_measurement import measure_queues
from ...routing import QueueScorer, Router
from ..hyperparameters import Hyperparameters
from ..method import Method, Run
from ..training_loop import descend
from .index_router import scorer_of
from .index_rule import strongest_index
from .weight_search import IndexHyperparameters

__all__ = ["METHOD", "RolloutHyperparameters", "Rollouts", "ascend", "fit_rollouts", "regress"]

_CLIP, _MOST = 1.5, 2.0  # utility: larger advantages are clipped


@dataclass(frozen=True, kw_only=True)
class RolloutHyperparameters(Hyperparameters):
    """Hyperparameters of policy iteration by rollouts.

    Attributes:
        index: hyperparameters of the index rule that the policy starts from.
        iterations: number of iterations of forking and fitting.
        states: number of states forked per iteration; fits use the states of all iterations so far.
        horizon: number of requests that each fork simulates. Under a budget, a fork runs to the end of the
            episode, where overspending is paid, and a quarter of the states is forked.
        experts: maximum number of experts tried in a state, those with the highest scores.
        lanes: number of episodes that run in parallel.
        exploration: fraction of requests that go to a random expert while states are visited.
        penalties: L2 penalties of the regression, as multiples of the number of states.
        temperatures: temperatures of the policy in gradient ascent, in units of utility.
        learning_rate: learning rate of Adam in gradient ascent.
        epochs: epochs of gradient ascent over the states.
        batch: states per gradient step.
        step_sizes: step sizes from the current prices to those of a fit, in (0, 1].
        validation_lanes: number of validation episodes.
        guard: number of standard errors by which a policy must be better than the index rule to replace it.
    """

    index: IndexHyperparameters = field(default_factory=IndexHyperparameters)
    iterations: Count = 2
    states: Size = 3_000
    horizon: Count = 64
    experts: Count = 6
    lanes: Size = 128
    exploration: Fraction = 0.05
    penalties: tuple[Positive, ...] = (0.01, 0.1)
    temperatures: tuple[Positive, ...] = (0.1,)
    learning_rate: Positive = 0.01
    epochs: Count = 10
    batch: Count = 256
    step_sizes: tuple[Share, ...] = (0.5, 1.0)
    validation_lanes: Size = 96
    guard: float = 2.0


class Rollouts(NamedTuple):
    """M states, with the returns of K experts at each.

    Attributes:
        scores: [M, K] float32, the index of each expert.
        products: [M, K, P] float32, the quantities that the scorer prices.
        returns: [M, K] float32, the utility that each fork earned.
    """

    scores: Tensor
    products: Tensor
    returns: Tensor


def fit_rollouts(
    problem: QueueingProblem,
    hyperparameters: RolloutHyperparameters,
    run: Run | None = None,
    start: Router | None = None,
) -> Router:
    """Train a policy from the tuned index rule.

    Args:
        problem: with one case.
        hyperparameters: see the class.
        run: seed, callback and checkpoint; an interrupted fit resumes after its last iteration.
        start: a router by index to start from, which is changed; if None the tuned index rule, of model
            servers with or without learned times, whichever is better on validation.
    """
    run = run or Run()
    router = start or strongest_index(
        problem, hyperparameters.index, run.seed, hyperparameters.validation_lanes
    )
    scorer = scorer_of(router)
    scorer.prices.zero_()
    (of_index,) = _validate(problem, scorer, scorer.prices.unsqueeze(0), hyperparameters)
    best = of_index
    parts: list[Rollouts] = []
    saved = run.checkpoint.load()
    if saved is not None:
        scorer.prices.copy_(saved["prices"])
        best = saved["best"].numpy()
        parts = [Rollouts(**saved["rollouts"][name]) for name in saved["rollouts"]]
    for iteration in range(len(parts), hyperparameters.iterations):
        parts.append(_fork_states(problem, scorer, hyperparameters, 10_000 * run.seed + 1_000 * iteration))
        rollouts = Rollouts(*(torch.cat(part) for part in zip(*parts, strict=True)))
        candidates = _candidates(rollouts, scorer.prices.clone(), hyperparameters, run.seed)
        measured = _validate(problem, scorer, candidates, hyperparameters)
        for prices, utility in zip(candidates, measured, strict=True):
            gain = utility - of_index
            noise = hyperparameters.guard * gain.std() / np.sqrt(len(gain))
            if gain.mean() > noise and utility.mean() > best.mean():
                best = utility
                scorer.prices.copy_(prices)
        run.checkpoint.save(_state(scorer, best, parts))
        message = f"validation utility {best.mean():.4f}, index rule {of_index.mean():.4f}"
        run.report(iteration + 1, hyperparameters.iterations, message, Measurement(utility=best, parts={}))
    return router


def regress(rollouts: Rollouts, penalty: float) -> Tensor:
    """Return prices [P] float32 fitted to the residuals of the index, by ridge regression within states.

    Args:
        rollouts: the states.
        penalty: on the squared prices of standardised products, as a multiple of the states.
    """
    x = rollouts.products - rollouts.products.mean(dim=1, keepdim=True)
    y = rollouts.returns - rollouts.scores
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
    rollouts: Rollouts,
    start: Tensor,
    hyperparameters: RolloutHyperparameters,
    temperature: float,
    seed: int = 0,
) -> Tensor:
    """Return prices [P] float32 whose softmax policy has a higher expected advantage, by gradient ascent.

    Args:
        rollouts: the states.
        start: [P] float32, prices to start from.
        hyperparameters: learning rate, epochs and batch.
        temperature: of the policy, utility.
        seed: of the order of the states.
    """
    generator = torch.Generator().manual_seed(seed)
    centred = rollouts.products - rollouts.products.mean(dim=1, keepdim=True)
    spread = centred.flatten(0, 1).std(dim=0)
    scale = torch.where(spread > 1e-6, 1.0 / spread.clamp(min=1e-6), 0.0)
    advantage = (rollouts.returns - rollouts.returns.mean(dim=1, keepdim=True)).clamp(-_MOST, _MOST)
    x = rollouts.products * scale
    prices = torch.nn.Parameter(start * spread)
    optimizer = torch.optim.Adam([prices], lr=hyperparameters.learning_rate)
    with torch.enable_grad():
        for _ in range(hyperparameters.epochs):
            for rows in torch.randperm(len(x), generator=generator).split(hyperparameters.batch):
                chance = ((rollouts.scores[rows] + x[rows] @ prices) / temperature).softmax(dim=-1)
                loss = -(chance * advantage[rows]).sum(dim=-1).mean()
                descend(optimizer, loss)
    return prices.detach() * scale


def _candidates(
    rollouts: Rollouts, now: Tensor, hyperparameters: RolloutHyperparameters, seed: int
) -> Tensor:
    """Return prices [M, P]: steps of every size from the current prices to those of every fit."""
    fits = [regress(rollouts, penalty) for penalty in hyperparameters.penalties]
    fits += [
        ascend(rollouts, now, hyperparameters, temperature, seed)
        for temperature in hyperparameters.temperatures
    ]
    steps = itertools.product(fits, hyperparameters.step_sizes)
    return torch.stack([now + step * (prices - now) for prices, step in steps])


def _validate(
    problem: QueueingProblem, scorer: QueueScorer, prices: Tensor, hyperparameters: RolloutHyperparameters
) -> np.ndarray:
    """Return the utility [M, B] float64 of each row of prices [M, P] in each validation episode."""
    count, lanes = len(prices), hyperparameters.validation_lanes
    core = problem.core("validation", problem.case, lanes=count * lanes, seed=500_000, group=count)
    each = prices.repeat(lanes, 1)

    def actions(observation: Tensor) -> Tensor:
        return scorer.scores(observation, each).argmax(dim=-1)

    return measure_queues(core, ActionPolicy(actions=actions)).utility.reshape(lanes, count).T


def _state(scorer: QueueScorer, best: np.ndarray, parts: list[Rollouts]) -> dict[str, Any]:
    """Return the checkpoint of a fit after as many iterations as there are parts."""
    return {
        "prices": scorer.prices,
        "best": torch.from_numpy(np.ascontiguousarray(best)),
        "rollouts": {str(iteration): part._asdict() for iteration, part in enumerate(parts)},
    }


@torch.no_grad()
def _fork_states(
    problem: QueueingProblem, scorer: QueueScorer, hyperparameters: RolloutHyperparameters, seed: int
) -> Rollouts:
    """Visit states with the policy and fork at some of them."""
    generator = torch.Generator().manual_seed(seed)
    core = problem.core("train", problem.case, lanes=hyperparameters.lanes, seed=seed)
    core.outcomes = _predicted(core, scorer)
    count, lanes = min(hyperparameters.experts, core.experts), torch.arange(hyperparameters.lanes)
    window, budget = core.config.window, core.config.budget is not None
    horizon = window if budget else min(hyperparameters.horizon, window)
    fork_times = -(-hyperparameters.states // hyperparameters.lanes // (4 if budget else 1))
    times = _spread(window if budget else window - horizon + 1, fork_times, generator)
    parts: list[Rollouts] = []
    for time in range(times[-1] + 1):
        index, products = scorer.priced(core.observation())
        score = index + products @ scorer.prices
        if time in times:
            experts = score.topk(count, dim=-1).indices
            fork = core.fork(lanes.repeat_interleave(count))
            returns = _follow(fork, experts.flatten(), scorer, min(horizon, window - time))
            own = products.gather(1, experts.unsqueeze(-1).expand(-1, -1, products.shape[-1]))
            parts.append(Rollouts(index.gather(1, experts), own, returns.reshape(-1, count)))
        explores = torch.rand(len(score), generator=generator) < hyperparameters.exploration
        drawn = torch.randint(core.experts, (len(score),), generator=generator)
        core.step(torch.where(explores, drawn, score.argmax(dim=-1)))
    return Rollouts(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _predicted(core: QueueingCore, scorer: QueueScorer) -> Outcomes:
    """Return the outcomes, with quality and compute as the scorer predicts them."""
    x = (core.outcomes.features - scorer.shift) * scorer.scale
    quality, compute, _ = scorer.estimate(x).chunk(3, dim=-1)
    return replace(core.outcomes, quality=quality, compute=compute)


def _spread(steps: int, count: int, generator: torch.Generator) -> list[int]:
    """Return times from 0 to steps - 1 at which to fork, one drawn from each of equal intervals."""
    stretch = max(steps // max(count, 1), 1)
    starts = torch.arange(0, steps - stretch + 1, stretch)[:count]
    return (starts + torch.randint(stretch, starts.shape, generator=generator)).tolist()


def _follow(fork: QueueingCore, experts: Tensor, scorer: QueueScorer, steps: int) -> Tensor:
    """Return the returns [M] float32 of sending requests to experts [M] and then following the policy."""
    returns = fork.step(experts).reward.double()
    for _ in range(steps - 1):
        returns += fork.step(scorer(fork.observation()).argmax(dim=-1)).reward
    return (returns - fork.settle()).float()  # what requests in flight will pay


METHOD = Method(
    name="rollout_iteration",
    family="rl",
    fit=fit_rollouts,
    hyperparameters=RolloutHyperparameters,
    space={"horizon": (64, 128), "states": (3_000, 9_000), "exploration": (0.05, 0.2)},
    about="policy iteration on simulated rollouts from the index rule",
)
