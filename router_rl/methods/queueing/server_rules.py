"""Rules of serving systems, as published, for model servers: they read loads and ignore quality.

Weights, formulas and defaults are those of the sources. Left out:

- prefix scorers of llm-d, SGLang's cache-aware rule and KV-aware rules: the traces in use have no prefixes
  (Mooncake's blocks are not simulated), and without a match SGLang's rule is the fewest requests in flight,
  which is `least_busy`;
- LiteLLM's simple shuffle, which is `random` for equal weights.

All rules observe the present state. Published systems read it some milliseconds late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...problems.problem import ActionPolicy
from ...problems.queueing.problem import QueueingProblem
from ...routing import ServerScorer
from ...routing.scorers.server_scorer import ServerParts
from ..method import Fit, Method, NoHyperparameters, Run
from .index_router import index_router

__all__ = ["METHODS", "RULES", "needs_model_servers", "relative", "server_scorer"]

Rule = Callable[[ServerParts, ServerScorer], Tensor]
"""Scores [T, N], the larger the better."""

_NO_ROOM = -1e6


def needs_model_servers(problem: QueueingProblem) -> str | None:
    """Return why a rule of model servers cannot play a problem, or None."""
    return "is for problem.servers continuous and api" if problem.lengths is None else None


def server_scorer(problem: QueueingProblem) -> ServerScorer:
    """Return a scorer with fitted predictions and the constants of the servers.

    Args:
        problem: with one case, of model servers.
    """
    scorer = index_router(problem).scorer
    assert isinstance(scorer, ServerScorer)
    return scorer


def relative(load: Tensor) -> Tensor:
    """Return `(max - load) / (max - min)` over the servers, 1 where all are equal, of loads [T, N].

    Source: queue-scorer of llm-d-inference-scheduler 520af47, `scorer/queuedepth`.
    """
    most, least = load.amax(dim=-1, keepdim=True), load.amin(dim=-1, keepdim=True)
    return torch.where(most > least, (most - load) / (most - least).clamp(min=1e-9), 1.0)


def _least_finish(parts: ServerParts, scorer: ServerScorer) -> Tensor:
    return -scorer.expected(parts).finish


def _vllm(parts: ServerParts, scorer: ServerScorer) -> Tensor:
    return -(4.0 * parts.queues.waiting + parts.queues.taken)


def _llmd(parts: ServerParts, scorer: ServerScorer) -> Tensor:
    return 2.0 * relative(parts.queues.waiting) + 2.0 * (1.0 - parts.used.clamp(0.0, 1.0))


def _least_busy(parts: ServerParts, scorer: ServerScorer) -> Tensor:
    return -(parts.queues.waiting + parts.queues.taken)


def _usage_based(parts: ServerParts, scorer: ServerScorer) -> Tensor:
    return -parts.used + _NO_ROOM * (parts.used >= 1.0)


def _latency_based(parts: ServerParts, scorer: ServerScorer) -> Tensor:
    return -parts.recent_first


def _cost_based(parts: ServerParts, scorer: ServerScorer) -> Tensor:
    _, compute, _ = scorer.estimate.bias.chunk(3)  # mean compute: the features are standardised
    return -compute + _NO_ROOM * (parts.used >= 1.0)


def _latency_aware(parts: ServerParts, scorer: ServerScorer) -> Tensor:
    ratios = [each / each.amin(dim=-1, keepdim=True) for each in (parts.recent_first, parts.recent_token)]
    return -(ratios[0] + ratios[1]) / 2.0


RULES: dict[str, tuple[Rule, str]] = {
    "least_finish": (_least_finish, "the shortest expected time to the last token"),
    "vllm_balancer": (_vllm, "the least 4 x waiting + running (vLLM balancer)"),
    "llmd": (_llmd, "2 x queue score + 2 x free KV cache (llm-d defaults)"),
    "least_busy": (_least_busy, "the fewest requests in flight (LiteLLM least-busy)"),
    "usage_based": (_usage_based, "the least used limit with room (LiteLLM usage-based-v2)"),
    "latency_based": (_latency_based, "the lowest recent time to the first token (LiteLLM)"),
    "cost_based": (_cost_based, "the lowest cost among those with room (LiteLLM cost-based)"),
    "latency_aware": (_latency_aware, "lowest recent token times (vLLM Semantic Router)"),
}
"""Rules by name, each with one line for `list`."""


def _fit_of(rule: Rule) -> Fit:
    """Return the fit of a rule."""

    def fit(problem: QueueingProblem, hyperparameters: NoHyperparameters, run: Run) -> Any:
        scorer = server_scorer(problem)

        def actions(observation: Tensor) -> Tensor:
            return rule(scorer.server_parts(observation), scorer).argmax(dim=-1)

        return ActionPolicy(actions=actions)

    return fit


METHODS = tuple(
    Method(name=name, family="baseline", fit=_fit_of(rule), about=about, refuses=needs_model_servers)
    for name, (rule, about) in RULES.items()
)
