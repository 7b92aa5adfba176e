"""Adaptive consistency: ask for answers until the majority is stable, and give the majority answer.

Votes are counted as they come. The majority is stable if the most frequent answer stays ahead of the second
with a probability of at least a threshold. That probability is the mass above 1/2 of a Beta distribution
whose parameters are the votes for the two answers plus 1.

Source: Aggarwal, Madaan, Yang, Mausam 2023, Adaptive-Consistency, section 3 (Beta criterion),
https://arxiv.org/abs/2305.11860. There all votes are samples of one model. Differences, in its favour: the
votes are those of every order of up to three experts (a further sample of an expert is a column of its own),
order and threshold are tuned at each compute weight, and ties go to the most likely answer by the beliefs
that all cascade methods share.

Legend: T queries, N experts, L experts in an order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import beta
from torch import Tensor

from envs import Core, reward
from experts import InputError

from ...problems.cascade.cascade_data import CascadeData
from ...problems.cascade.problem import CascadeProblem
from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView
from ..method import Method, NoHyperparameters, Run
from .by_weight import PolicyByWeight
from .thresholds import permitted_orders

__all__ = ["METHOD", "AdaptiveConsistency", "TunedOrder", "fit", "orders_of", "stability"]

_MAX_ORDER = 3


class TunedOrder(NamedTuple):
    """What an order earns at one threshold."""

    order: tuple[int, ...]
    threshold: float
    quality: float
    compute: float


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptiveConsistency:
    """Asks in a fixed order until the majority is stable.

    Attributes:
        beliefs: break ties of the vote.
        order: the experts as they are asked.
        threshold: the stability at which it stops.
    """

    beliefs: Beliefs
    order: tuple[int, ...]
    threshold: float

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64 of the environment for observations [T, O] float32."""
        experts = self.beliefs.sizes[1]
        view = CascadeView.of(observation, experts)
        posterior = self.beliefs.posterior(self.beliefs.prior(view.features), view.confidence)
        votes = view.agree.sum(dim=-1)
        first = votes.amax(dim=-1)
        leads = view.asked & (votes == first.unsqueeze(-1))
        answer = posterior.masked_fill(~leads, -torch.inf).argmax(dim=-1)
        against = view.agree[torch.arange(len(votes)), answer] == 0.0
        second = torch.where(view.asked & against, votes, 0.0).amax(dim=-1)
        stable = stability(len(self.order)).float()[first.long(), second.long()]
        stage = view.asked.sum(dim=-1)
        place = torch.tensor(self.order)[stage.clamp(max=len(self.order) - 1)]
        asks = (stage == 0) | ((stage < len(self.order)) & (stable < self.threshold))
        return torch.where(asks, place, answer + experts)


def stability(most: int) -> Tensor:
    """Return the probability that the first answer stays ahead, by the votes for both.

    Args:
        most: the highest number of votes.

    Returns:
        [most + 1, most + 1] float64.
    """
    first, second = np.meshgrid(np.arange(most + 1), np.arange(most + 1), indexing="ij")
    return torch.from_numpy(np.asarray(beta.sf(0.5, first + 1, second + 1)))


def fit(problem: CascadeProblem, hyperparameters: NoHyperparameters, run: Run) -> PolicyByWeight:
    """Choose the order and the threshold at every compute weight, on training and validation rows.

    Raises:
        InputError: it is not known which answers agree.
    """
    data = problem.data(run.seed)
    if data.table.same is None:
        reason = "counts equal answers, and the table has neither answers nor class probabilities"
        raise InputError("method", "adaptive_consistency", reason, "add answer/<expert> columns to it")
    tuned = list(orders_of(data, problem.options.max_experts))
    policies: list[AdaptiveConsistency] = []
    for weight in problem.weights:
        utility = [reward.utility(each._asdict(), {"compute": weight}) for each in tuned]
        best = tuned[int(np.argmax(utility))]
        policies.append(
            AdaptiveConsistency(beliefs=data.fitted.beliefs, order=best.order, threshold=best.threshold)
        )
    return PolicyByWeight(weights=torch.tensor(problem.weights), policies=tuple(policies))


def orders_of(data: CascadeData, max_experts: int) -> Iterator[TunedOrder]:
    """Yield every order of experts with every threshold that changes its decisions.

    Args:
        data: the rows.
        max_experts: maximum number of experts asked; above 3 it changes nothing.
    """
    quality, compute, posterior = (
        part.numpy() for part in (data.quality, data.compute, data.fitted.posterior)
    )
    same = data.same.numpy() > 0.0
    size = min(_MAX_ORDER, max_experts, quality.shape[1])
    stable = stability(size).numpy()
    thresholds = [0.0, *(float(stable[votes, 0]) for votes in range(2, size)), 1.0][: size + 1]
    for order in permitted_orders(quality.shape[1], size, data.table.after):
        place = list(order)
        agree = same[:, place][:, :, place]
        stages = _stages(agree, posterior[:, place], stable)
        earned, spent = quality[:, place], compute[:, place].cumsum(axis=1)
        for threshold in thresholds:
            stop = stages.stability >= threshold
            stop[:, -1] = True
            stage = stop.argmax(axis=1)
            rows = np.arange(len(stage))
            given = earned[rows, stages.answer[rows, stage]]
            yield TunedOrder(order, threshold, float(given.mean()), float(spent[rows, stage].mean()))


class _Stages(NamedTuple):
    """After each expert of an order: the place of the answer to give, and the stability; [T, L]."""

    answer: np.ndarray
    stability: np.ndarray


def _stages(agree: np.ndarray, posterior: np.ndarray, stable: np.ndarray) -> _Stages:
    """Count the votes after each expert; `agree` [T, L, L] bool, `posterior` [T, L]."""
    rows, size = posterior.shape
    answer, reached = np.zeros((rows, size), dtype=np.int64), np.zeros((rows, size))
    for stage in range(size):
        known = agree[:, : stage + 1, : stage + 1]
        votes = known.sum(axis=2)
        first = votes.max(axis=1)
        leads = votes == first[:, None]
        best = np.where(leads, posterior[:, : stage + 1], -np.inf).argmax(axis=1)
        against = ~known[np.arange(rows), best]
        second = np.where(against, votes, 0).max(axis=1)
        answer[:, stage], reached[:, stage] = best, stable[first, second]
    return _Stages(answer, reached)


METHOD = Method(
    name="adaptive_consistency",
    family="baseline",
    fit=fit,
    about="votes until the majority is stable (Aggarwal et al. 2023)",
    amortizes=True,
)
