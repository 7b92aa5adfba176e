"""Gates of token-level routing, trained by backpropagation through the frozen experts."""

from __future__ import annotations

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import TokenMoEProblem
from ...routing import ScoredTopK, TopK, UnnormalisedTopK
from ..method import Method
from .backprop import GATES, Gate, gate_of_rule, train_gate
from .token_fit import SPACE, LearningRate, fit_of
from .token_training import Training

__all__ = ["METHODS", "gate_of"]


def gate_of(problem: TokenMoEProblem) -> Gate:
    """Return the gate whose mixture has the weights of the case's selection rule (dense for one expert).

    Args:
        problem: the problem, at one case.
    """
    rule = problem.selection
    if isinstance(rule, ScoredTopK | UnnormalisedTopK) or (isinstance(rule, TopK) and rule.k > 1):
        return gate_of_rule(rule)
    return GATES["soft_gate"]


def _softmax(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    routers = train_gate(problem.pool, start, gate_of(problem), training)[0].routers
    return routers.copy(problem.selections)


def _straight_through(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    routers = train_gate(problem.pool, start, GATES["straight_through"], training)[0].routers
    return routers.copy(problem.selections)


def _switch(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    routers = train_gate(problem.pool, start, GATES["switch"], training)[0].routers
    return routers.copy(UnnormalisedTopK(k=1))


def _deepseek_v3(problem: TokenMoEProblem, start: LayerRouters, training: Training) -> LayerRouters:
    return train_gate(problem.pool, start, GATES["deepseek_v3_top2"], training)[0].routers


def _needs_one_expert(problem: TokenMoEProblem) -> str | None:
    return _needs(1, problem)


def _needs_two_experts(problem: TokenMoEProblem) -> str | None:
    return _needs(2, problem)


def _needs(count: int, problem: TokenMoEProblem) -> str | None:
    if problem.pool.gates is not None:
        return "has a selection rule of its own, and problem.model keeps that of its gates"
    own = problem.experts_per_token
    return None if own == count else f"selects {count} of the experts per token, not {own}"


METHODS = (
    Method(
        name="softmax_gate",
        family="gate",
        fit=fit_of(_softmax),
        hyperparameters=LearningRate,
        space=SPACE,
        about="backpropagation through all experts, or the two best",
    ),
    Method(
        name="straight_through",
        family="gate",
        fit=fit_of(_straight_through),
        hyperparameters=LearningRate,
        space=SPACE,
        about="sparse selection, dense gradient (Bengio et al. 2013)",
    ),
    Method(
        name="switch_gate",
        family="gate",
        fit=fit_of(_switch),
        hyperparameters=LearningRate,
        space=SPACE,
        refuses=_needs_one_expert,
        about="one expert, scaled by its probability (Fedus et al. 2021)",
    ),
    Method(
        name="deepseek_v3_gate",
        family="gate",
        fit=fit_of(_deepseek_v3),
        hyperparameters=LearningRate,
        space=SPACE,
        refuses=_needs_two_experts,
        about="two experts by sigmoid, a bias that balances (DeepSeek-V3)",
    ),
)
