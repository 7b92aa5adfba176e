"""Rules of serving systems with quality and compute added, all weights tuned as those of the index rule.

A rule is a weighted sum of its scores, predicted quality and predicted compute, with the search of
`weight_search`. `predicted_latency` reads regressions of the time to
the first token and of the time per further token, fitted to training episodes (llm-d trains them online).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from torch import Tensor

from ...problems.problem import ActionPolicy
from ...problems.queueing.problem import QueueingProblem
from ...routing import ServerScorer
from ...routing.scorers.server_scorer import ServerParts
from ..method import Method, NoHyperparameters, Run
from .latency_samples import latency_samples
from .server_rules import RULES, needs_model_servers, relative, server_scorer
from .weight_search import IndexHyperparameters, candidate_utility, search_weights

__all__ = ["METHODS", "LatencyPredictor", "tuned_scores"]

Scores = Callable[[ServerParts, ServerScorer], Sequence[Tensor]]
"""Scores [T, N] of a rule, each better when larger and about 1 in size."""

_TREES = 40
_MOST_TOKENS = 4_194_304.0  # of llm-d's token-load scorer


def tuned_scores(
    problem: QueueingProblem,
    hyperparameters: IndexHyperparameters,
    seed: int,
    scores: Scores,
    guess: Sequence[float],
) -> ActionPolicy:
    """Return the rule with the best weights found.

    Args:
        problem: with one case, of model servers.
        hyperparameters: of the search.
        seed: of the candidates and of the training episodes.
        scores: of the rule.
        guess: first guess of the weight of each score; that of quality is 1, that of compute the problem's.
    """
    scorer = server_scorer(problem)
    centre = torch.tensor([problem.config.compute_weight or 0.1, *guess])

    def total(observation: Tensor, weights: Tensor) -> Tensor:
        terms = scorer.terms(observation)
        own = torch.stack([terms[..., 1], *scores(scorer.server_parts(observation), scorer)], dim=-1)
        return (terms[..., 0] + (own * weights).sum(dim=-1)).argmax(dim=-1)

    def utility(draws: Tensor, split: str, lanes: int, seed: int) -> Tensor:
        rows = draws.repeat(lanes, 1).unsqueeze(1)

        def actions(observation: Tensor) -> Tensor:
            return total(observation, rows)

        return candidate_utility(problem, len(draws), actions, split, lanes=lanes, seed=seed)

    weights = search_weights(centre, hyperparameters, seed, utility)
    return ActionPolicy(actions=lambda observation: total(observation, weights))


class LatencyPredictor:
    """Predicts the time to the first token and per further token of a request at each server.

    Boosted trees on the state of the server, fitted to `latency_samples`. The features are those of llm-d's
    predictor that the environment has.

    Args:
        problem: with one case, of model servers.
        seed: of the episodes.
    """

    def __init__(self, problem: QueueingProblem, seed: int) -> None:
        self.scorer = server_scorer(problem)
        samples = latency_samples(problem, self.scorer, seed)
        rows = self._features(self.scorer.server_parts(samples.observation))
        x = rows[torch.arange(len(rows)), samples.expert].numpy()
        further = (samples.whole_s - samples.first_s) / (samples.tokens - 1.0).clamp(min=1.0)
        self._models = [
            HistGradientBoostingRegressor(max_iter=_TREES, random_state=seed).fit(
                x, np.log(target.numpy().clip(min=1e-4))
            )
            for target in (samples.first_s, further)
        ]

    def predict(self, parts: ServerParts) -> tuple[Tensor, Tensor]:
        """Return seconds to the first token, and per further token, [T, N] float32 each."""
        x = self._features(parts)
        flat = x.flatten(0, 1).numpy()
        first, further = (
            torch.from_numpy(np.exp(model.predict(flat))).float().reshape(x.shape[:2])
            for model in self._models
        )
        return first, further

    def _features(self, parts: ServerParts) -> Tensor:
        """Return the state of each server and the prompt, [T, N, 9] float32."""
        shape = parts.used
        index = torch.arange(shape.shape[1]).float().expand_as(shape)
        columns = (
            *(index, parts.queues.waiting, parts.queues.taken, parts.queues.down, parts.used, parts.ahead),
            *(parts.recent_first, parts.recent_token, parts.tokens.expand_as(shape)),
        )
        return torch.stack(columns, dim=-1)


def _llmd_scores(parts: ServerParts, scorer: ServerScorer) -> list[Tensor]:
    load = 1.0 - parts.ahead.clamp(max=_MOST_TOKENS) / _MOST_TOKENS
    waiting, running = parts.queues.waiting, parts.queues.taken
    return [relative(waiting), relative(running), 1.0 - parts.used, load, -parts.queues.down]


def _litellm_scores(parts: ServerParts, scorer: ServerScorer) -> list[Tensor]:
    usual = torch.tensor(scorer.server.first), torch.tensor(scorer.server.token_s)
    return [
        RULES["least_busy"][0](parts, scorer) / 10.0,
        -parts.recent_first / usual[0].clamp(min=1e-6),
        -parts.recent_token / usual[1],
        -parts.used,
        -(parts.used >= 1.0).float(),
    ]


def _llmd_tuned(problem: QueueingProblem, hyperparameters: IndexHyperparameters, run: Run) -> ActionPolicy:
    guess = (0.1, 0.1, 0.1, 0.1, 0.3)
    return tuned_scores(problem, hyperparameters, run.seed, _llmd_scores, guess)


def _litellm_tuned(problem: QueueingProblem, hyperparameters: IndexHyperparameters, run: Run) -> ActionPolicy:
    guess = (0.1, 0.03, 0.03, 0.1, 0.1)
    return tuned_scores(problem, hyperparameters, run.seed, _litellm_scores, guess)


def _predicted_latency(
    problem: QueueingProblem, hyperparameters: NoHyperparameters, run: Run
) -> ActionPolicy:
    """0.8 x normalised time to the first token + 0.2 x that per further token, as llm-d's latency scorer."""
    predictor = LatencyPredictor(problem, run.seed)

    def actions(observation: Tensor) -> Tensor:
        first, further = predictor.predict(predictor.scorer.server_parts(observation))
        return (0.8 * relative(first) + 0.2 * relative(further)).argmax(dim=-1)

    return ActionPolicy(actions=actions)


def _latency_tuned(problem: QueueingProblem, hyperparameters: IndexHyperparameters, run: Run) -> ActionPolicy:
    predictor = LatencyPredictor(problem, run.seed)
    answer = torch.tensor([each.answer for each in problem.units.servers])
    late = problem.config.lateness_weight + problem.config.miss_weight or 0.1

    def scores(parts: ServerParts, scorer: ServerScorer) -> list[Tensor]:
        first, further = predictor.predict(parts)
        whole, unit = first + further * answer, scorer.server.mean_service
        deadline, early = parts.queues.deadline, parts.first_deadline
        first_over = (first - early).clamp(min=0.0) * (early > 0) / early.clamp(min=1e-9)
        return [
            -parts.queues.value * (whole - deadline).clamp(min=0.0) / deadline,
            -parts.queues.value * first_over,
            -whole / unit,
            -first / unit,
        ]

    return tuned_scores(problem, hyperparameters, run.seed, scores, (late, late, 0.1, 0.1))


METHODS = (
    Method(
        name="llmd_tuned",
        family="baseline",
        fit=_llmd_tuned,
        hyperparameters=IndexHyperparameters,
        about="quality, compute and scorers of llm-d, tuned weights",
        refuses=needs_model_servers,
    ),
    Method(
        name="litellm_tuned",
        family="baseline",
        fit=_litellm_tuned,
        hyperparameters=IndexHyperparameters,
        about="quality, compute and signals of LiteLLM, tuned weights",
        refuses=needs_model_servers,
    ),
    Method(
        name="predicted_latency",
        family="baseline",
        fit=_predicted_latency,
        about="the lowest predicted token times (llm-d latency scorer)",
        refuses=needs_model_servers,
    ),
    Method(
        name="latency_tuned",
        family="baseline",
        fit=_latency_tuned,
        hyperparameters=IndexHyperparameters,
        about="quality, compute, predicted lateness, tuned weights",
        refuses=needs_model_servers,
    ),
)
