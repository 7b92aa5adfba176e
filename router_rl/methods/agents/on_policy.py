"""The loop of learners that play their policy on device: play, ascend, measure, keep the best."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch

from ...problems.routing.problem import RoutingProblem
from ...routing import Router
from ..method import Run
from ..training_loop import EarlyStopping, adamw, optimizer_state, restore_optimizer
from .expectation import Payment
from .rollout import Trajectory, fresh, play

__all__ = ["Ascent", "PlayedHyperparameters", "Update", "learn"]

_STRETCH = 32
_VALIDATE_EVERY = 16_384


class PlayedHyperparameters(Protocol):
    """The part of a learner's settings that the loop reads."""

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
    """What an ascent works with.

    Attributes:
        router: the policy.
        optimizer: of its weights.
        payment: what experts earn on the training rows.
        entropy: the bonus now, utility per nat.
        generator: of everything random.
    """

    router: Router
    optimizer: torch.optim.Optimizer
    payment: Payment
    entropy: float
    generator: torch.Generator

    def ascend(self, value: torch.Tensor) -> None:
        """Take one step up a scalar."""
        self.optimizer.zero_grad(set_to_none=True)
        (-value).backward()
        self.optimizer.step()


Ascent = Callable[[Update, Trajectory], None]


def learn(
    problem: RoutingProblem,
    hyperparameters: PlayedHyperparameters,
    run: Run,
    ascent: Ascent,
    start: Router | None = None,
) -> Router:
    """Play and ascend in turn.

    Where load is charged a rollout is a stretch of 32 decisions in each lane, two times as many decisions
    in all; elsewhere one decision a lane. The entropy bonus falls in a line to 0 over the budget.

    Args:
        problem: rows, objective, rule and scorer.
        hyperparameters: lanes, budget and the optimizer's.
        run: seed, watch and checkpoint.
        ascent: what is learned from one rollout.
        start: a router to go on from; a new one if None.

    Returns:
        the router with the best weights on validation, in evaluation mode.
    """
    objective = problem.objective
    payment = Payment(problem.outcomes(), objective.compute_weight, hyperparameters.smoothing)
    router = start or problem.new_router(run.seed, observe_load=problem.observe_load)
    if problem.compile:
        router.scorer.compile()
    optimizer = adamw(router.parameters(), hyperparameters.learning_rate, hyperparameters.weight_decay)
    generator = torch.Generator(device=problem.device).manual_seed(run.seed)
    stopping = EarlyStopping(problem, hyperparameters.patience, run.callback)
    steps = _STRETCH if objective.load_weight else 1
    groups = max(1, hyperparameters.lanes * (2 if steps > 1 else 1) // steps // hyperparameters.group)
    lanes = groups * hyperparameters.group
    state = fresh(payment.outcomes, lanes, hyperparameters.group, run.seed * lanes)
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
        state = state._replace(**saved["lanes"])
    while played < hyperparameters.decisions:
        state, seen = play(router, payment, objective, state, steps, generator, hyperparameters.group)
        entropy = hyperparameters.entropy * (1.0 - played / hyperparameters.decisions)
        ascent(Update(router, optimizer, payment, entropy, generator), seen)
        before, played = played, played + lanes * steps
        if before // period == played // period:
            continue
        if stopping.update(router, played, hyperparameters.decisions, {"return": float(seen.reward.mean())}):
            break
        if run.checkpoint.due:
            run.checkpoint.save(
                {
                    "played": played,
                    "router": router.state_dict(),
                    "optimizer": optimizer_state(optimizer),
                    "generator": generator.get_state(),
                    "stopping": stopping.state_dict(),
                    "lanes": state._asdict(),
                }
            )
    return stopping.best(router)
