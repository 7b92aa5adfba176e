"""GRPO that starts from a trained gate, by default from one that was tuned on its own right answers.

A gate that is tuned on verified answers has the gradient of the experts' outputs, which tells it how each
token's choice changes the answer; GRPO then changes it by the rewards of whole answers, with greedy tokens as
at inference. Language models are trained in the same order: on samples that a verifier accepted, then by
reinforcement learning. In a comparison the start is the best such gate on validation, with its
hyperparameters.

Source: DeepSeek-AI 2025, https://arxiv.org/abs/2501.12948, section 2.3 (a cold start before GRPO).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from experts.io.value_range import NonNegative, Positive, Range

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import LayerPolicy, TokenMoEProblem
from ..method import Method, Run
from ..registry import find_method
from .answer_learners import answer_training, refuses_answers, wrong_share
from .grpo import GrpoHyperparameters, train_grpo

__all__ = ["METHOD", "WarmGrpoHyperparameters", "from_gate"]

Start = Literal["right_answers", "straight_through", "softmax_gate"]


@dataclass(frozen=True, kw_only=True)
class WarmGrpoHyperparameters(GrpoHyperparameters):
    """Hyperparameters of GRPO from a trained gate.

    Attributes:
        learning_rate: of AdamW.
        kl: weight of the KL divergence to the start, reward per nat.
        soften: divides the start's logits, for exploration; at least 1.
        start: the gate to start from.
        start_hyperparameters: hyperparameters of that method; its defaults if None.
    """

    learning_rate: Positive = 3e-2
    kl: NonNegative = 3e-2
    soften: Annotated[float, Range(1.0)] = 1.0
    start: Start = "right_answers"
    start_hyperparameters: Any = None


def from_gate(
    hyperparameters: WarmGrpoHyperparameters, start: str, start_hyperparameters: Any
) -> WarmGrpoHyperparameters | None:
    """Return the hyperparameters with another gate to start from; None if it is no start for GRPO."""
    if start not in get_args(Start):
        return None
    return replace(hyperparameters, start=start, start_hyperparameters=start_hyperparameters)


def fit(problem: TokenMoEProblem, hyperparameters: WarmGrpoHyperparameters, run: Run) -> LayerPolicy:
    """Fit the start, and train it by GRPO; the start is returned if no checkpoint is better on validation.

    Args:
        problem: with prompts.
        hyperparameters: of GRPO and of the start.
        run: seed, progress callback and checkpoint.

    Raises:
        InputError: the hyperparameters of the start are not those of its method.
    """
    start, score = _start(problem, hyperparameters, run.seed), wrong_share(problem.pool)
    trained = train_grpo(problem.pool, start, answer_training(problem, run), hyperparameters, score)
    if trained.validation == trained.curve[0]:
        run.facts["equals_start"] = hyperparameters.start
    return LayerPolicy(choose=trained.routers.choose, routers=trained.routers)


def _start(problem: TokenMoEProblem, hyperparameters: WarmGrpoHyperparameters, seed: int) -> LayerRouters:
    """The routers of the start, which are the same for all trials of a seed."""
    name = hyperparameters.start
    method = find_method("token_moe", name)
    assert isinstance(method, Method)
    values = method.start_values(hyperparameters.start_hyperparameters)

    def make() -> LayerRouters:
        policy: LayerPolicy = method.fit(problem, values, Run(seed=seed))
        assert policy.routers is not None
        return policy.routers

    routers: LayerRouters = problem.cached(("start of GRPO", problem.case.label, name, values, seed), make)
    return routers


METHOD = Method(
    name="warm_grpo",
    family="rl",
    fit=fit,
    hyperparameters=WarmGrpoHyperparameters,
    space={"learning_rate": (3e-2, 1e-2, 1e-1), "kl": (3e-2, 1e-1)},
    refuses=refuses_answers,
    about="grpo from a gate that was tuned on right answers",
    warm_starts_from=from_gate,
)
