"""Methods of token-level routing that learn from right answers; they start from a gate of the loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ...problems.token_moe.token_answers import answer
from ..method import Fit as MethodFit
from ..method import Method, Run
from .answer_bounds import needs_answers
from .backprop import train_gate
from .closed_form_start import closed_form_start
from .grpo import GrpoHyperparameters, train_grpo
from .own_gates import own_gates
from .refusals import needs_topk
from .right_answers import RightAnswersHyperparameters, train_on_right_answers
from .token_gates import gate_of
from .token_training import Fit, Training

__all__ = ["METHODS", "answer_training", "refuses_answers", "wrong_share"]

_CHECKS = 4

Learn = Callable[[TokenPool, LayerRouters, Training, Any, Callable[[LayerRouters], float]], Fit]


def wrong_share(pool: TokenPool, part: str = "validation") -> Callable[[LayerRouters], float]:
    """Return a score of routers: the share of a part's answers that are wrong, with greedy routes and tokens.

    Args:
        pool: of problems.
        part: its part.
    """
    return lambda routers: 1.0 - float(answer(pool, pool.parts[part], routers.choose).right.mean())


def _gate(problem: TokenMoEProblem, seed: int) -> LayerRouters:
    """The routers of the softmax gate, trained on the loss of all tokens from the start of all methods."""
    options = problem.options
    training = Training(epochs=options.epochs, batch=options.batch, learning_rate=1e-2, seed=seed)

    def make() -> LayerRouters:
        start = closed_form_start(problem) if problem.pool.gates is None else own_gates(problem)
        trained = train_gate(problem.pool, start, gate_of(problem), training)
        return trained[0].routers.copy(problem.selections)

    routers: LayerRouters = problem.cached(("gate of the loss", problem.case.label, seed), make)
    return routers


def _fit(learn: Learn) -> MethodFit:
    def fit(problem: TokenMoEProblem, hyperparameters: Any, run: Run) -> LayerPolicy:
        start, score = _gate(problem, run.seed), wrong_share(problem.pool)
        routers = learn(problem.pool, start, answer_training(problem, run), hyperparameters, score).routers
        return LayerPolicy(choose=routers.choose, routers=routers)

    return fit


def answer_training(problem: TokenMoEProblem, run: Run) -> Training:
    """Return the options of the training loop of methods that learn from right answers.

    Args:
        problem: has the batch size.
        run: has the seed, the progress callback and the checkpoint.
    """
    return Training(
        batch=problem.options.batch,
        checks=_CHECKS,
        seed=run.seed,
        report=run.report,
        checkpoint=run.checkpoint,
    )


def refuses_answers(problem: TokenMoEProblem) -> str | None:
    """Return why a method that learns from right answers cannot be used, or None.

    Args:
        problem: the problem.
    """
    return needs_answers(problem) or needs_topk(problem)


METHODS = (
    Method(
        name="grpo",
        family="rl",
        fit=_fit(train_grpo),
        hyperparameters=GrpoHyperparameters,
        space={"learning_rate": (1e-1, 3e-2, 1e-2, 3e-1), "kl": (1e-1, 3e-2)},
        refuses=refuses_answers,
        about="group-relative policy gradient on verified answers",
    ),
    Method(
        name="right_answers",
        family="gate",
        fit=_fit(train_on_right_answers),
        hyperparameters=RightAnswersHyperparameters,
        space={"learning_rate": (1e-2, 3e-2, 3e-3), "gate": ("straight_through", "soft_gate")},
        refuses=refuses_answers,
        about="a gate tuned on its own right answers",
    ),
)
