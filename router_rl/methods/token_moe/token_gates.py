"""Gates of token-level routing, trained by backpropagation through the frozen experts."""

from __future__ import annotations

from functools import partial

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.problem import TokenMoEProblem
from ...routing import Hierarchical, ScoredTopK, TopK, UnnormalisedTopK
from .backprop import GATES, Gate, gate_of_rule, gate_of_tree, train_gate
from .refusals import needs_fixed, needs_topk
from .token_fit import trained
from .token_training import Training

__all__ = ["METHODS", "gate_of"]


def gate_of(problem: TokenMoEProblem) -> Gate:
    """Return the gate whose mixture has the weights of the case's selection rule (dense for one expert).

    Args:
        problem: the problem, at one case.
    """
    rule = problem.selection
    if isinstance(rule, Hierarchical):
        return gate_of_tree(rule)
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


def _needs(count: int, problem: TokenMoEProblem) -> str | None:
    if problem.pool.gates is not None:
        return "has a selection rule of its own, and problem.model keeps that of its gates"
    own = problem.experts_per_token
    if own != count:
        return f"selects {count} of the experts per token, not {own}"
    return needs_topk(problem)


METHODS = (
    trained(
        "softmax_gate",
        "gate",
        _softmax,
        "backpropagation through all experts, or the two best",
        refuses=needs_fixed,
    ),
    trained(
        "straight_through",
        "gate",
        _straight_through,
        "sparse selection, dense gradient (Bengio et al. 2013)",
        refuses=needs_topk,
    ),
    trained(
        "switch_gate",
        "gate",
        _switch,
        "one expert, scaled by its probability (Fedus et al. 2021)",
        refuses=partial(_needs, 1),
    ),
    trained(
        "deepseek_v3_gate",
        "gate",
        _deepseek_v3,
        "two experts by sigmoid, a bias that balances (DeepSeek-V3)",
        refuses=partial(_needs, 2),
    ),
)
