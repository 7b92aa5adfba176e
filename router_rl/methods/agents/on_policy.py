"""The on-policy training loop: act in the environment, update, validate, keep the best weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..method import Run
from ..training_loop import EarlyStopping, adamw, descend, optimizer_state, restore_optimizer
from .expectation import RewardTable
from .rollout import Trajectory, collect_rollout, rollout_core

__all__ = ["Ascent", "RolloutHyperparameters", "Update", "learn"]

_ROLLOUT_STEPS = 32
_VALIDATE_EVERY = 16_384


class RolloutHyperparameters(Protocol):
    """The hyperparameters that the training loop reads."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def entropy(self) -> float: ...
    @property
    def smoothing(self) -> float: ...
    @property
    def group(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def decisions(self) -> int: ...
    @property
    def patience(self) -> int: ...


class Update(NamedTuple):
    """What one policy update uses.

    Attributes:
        router: the policy.
        optimizer: optimizer of its weights.
        rewards: rewards of all experts on the training rows.
        entropy: current entropy bonus, utility per nat.
        generator: random generator of the run.
    """

    router: Router
    optimizer: torch.optim.Optimizer
    rewards: RewardTable
    entropy: float
    generator: torch.Generator

    def ascend(self, value: torch.Tensor) -> None:
        """Take one gradient step that increases a scalar."""
        descend(self.optimizer, -value)


Ascent = Callable[[Update, Trajectory], None]


def learn(
    problem: RoutingProblem,
    hyperparameters: RolloutHyperparameters,
    run: Run,
    ascent: Ascent,
    start: Router | None = None,
) -> Router:
    """Alternate between collecting rollouts and updating the policy.

    With a load penalty, a rollout is 32 decisions in each lane and twice as many decisions in total;
    otherwise it is one decision in each lane. The entropy bonus decays linearly to 0 over the training
    decisions.

    Args:
        problem: rows, objective, selection rule and scorer.
        hyperparameters: lanes, number of decisions and the optimizer's options.
        run: seed, callback and checkpoint.
        ascent: updates the policy from one rollout.
        start: router to start from; a new one if None.

    Returns:
        the router with the best weights on validation, in evaluation mode.
    """
    objective = problem.objective
    rewards = RewardTable(problem.outcomes(), objective.compute_weight, hyperparameters.smoothing)
    router = start or problem.new_router(run.seed, observe_load=problem.observe_load)
    if problem.compile:
        router.scorer.compile()
    optimizer = adamw(router.parameters(), hyperparameters.learning_rate, hyperparameters.weight_decay)
    generator = torch.Generator(device=problem.device).manual_seed(run.seed)
    stopping = EarlyStopping(problem, hyperparameters.patience, run.callback)
    steps = _ROLLOUT_STEPS if objective.load_weight else 1
    groups = max(1, hyperparameters.lanes * (2 if steps > 1 else 1) // steps // hyperparameters.group)
    lanes = groups * hyperparameters.group
    core = rollout_core(
        rewards.smoothed, objective, router.rule, lanes, hyperparameters.group, run.seed * lanes
    )
    period = run.validate_every or _VALIDATE_EVERY
    played = 0
    saved = run.checkpoint.load()
    if saved is None:
        stopping.update(router, 0, hyperparameters.decisions)
    else:
        played = saved["played"]
        router.load_state_dict(saved["router"])
        restore_optimizer(optimizer, saved["optimizer"])
        generator.set_state(saved["generator"])
        stopping.load_state_dict(saved["stopping"])
        core.load_state_dict(saved["lanes"])
    while played < hyperparameters.decisions:
        trajectory = collect_rollout(router, core, steps, generator)
        entropy = hyperparameters.entropy * (1.0 - played / hyperparameters.decisions)
        ascent(Update(router, optimizer, rewards, entropy, generator), trajectory)
        before, played = played, played + lanes * steps
        if before // period == played // period:
            continue
        if stopping.update(
            router, played, hyperparameters.decisions, {"return": float(trajectory.reward.mean())}
        ):
            break
        if run.checkpoint.due:
            run.checkpoint.save(
                {
                    "played": played,
                    "router": router.state_dict(),
                    "optimizer": optimizer_state(optimizer),
                    "generator": generator.get_state(),
                    "stopping": stopping.state_dict(),
                    "lanes": core.state_dict(),
                }
            )
    return stopping.best(router)
