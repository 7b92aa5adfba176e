"""Cascade routing: before every step, choose the best set of experts; ask its cheapest new one, or stop.

The quality of a set is the expected highest quality of its members. The qualities of the experts asked are
known; the others are normal around their estimates. The worth of a set is its quality minus `lambda` times
its compute. The rule stops if no set is worth more than the experts already asked.

Source: Dekoninck, Baader, Vechev 2024, A Unified Approach to Routing and Cascading for LLMs, section 4,
https://arxiv.org/abs/2410.10347; their code takes the normals as independent, too. Quality estimates are the
beliefs that all cascade methods share. As there, the spread of an estimate is measured for every set of
experts asked, and there is a `lambda` a step: here a tuned factor on the compute weight for the first step
and one for the later steps. Differences: the normals are cut off at 0 and 1, and sets are made of the eight
experts that are worth most by themselves.

Legend: T queries, N experts, K experts in the sets tried, S sets, G qualities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor

from envs import Core

from ...problems.cascade.cascade_data import CascadeData
from ...problems.cascade.problem import CascadeProblem
from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView
from ..method import Method, NoHyperparameters, Run
from .candidate_choice import best_candidate

__all__ = ["FACTORS", "METHOD", "CascadeRouting", "Spreads", "candidates", "expected_best", "fit"]

FACTORS = (0.25, 0.5, 1.0, 2.0)
"""The factors on the compute weight that are tried for the first step and for the later steps."""

_TRIED = 8  # K
_QUALITIES = 25  # G
_MEASURED = 2  # size of the largest set of experts asked whose spread is measured by itself
_FLOOR = 1e-3  # the smallest spread


@dataclass(frozen=True, kw_only=True, eq=False)
class Spreads:
    """Standard deviation of what asking an expert changes in its estimate, by the set asked before.

    Attributes:
        codes: [S] int64, rising: each set as the sum of `2 ** expert`.
        values: [S + 1, N] float32; the last row is the mean, for sets that are not measured.
    """

    codes: Tensor
    values: Tensor

    @classmethod
    def of(cls, data: CascadeData, max_experts: int) -> Spreads:
        """Measure them on rows, by their cross-fitted beliefs.

        Args:
            data: the rows.
            max_experts: maximum number of experts asked.
        """
        prior, posterior = data.fitted.prior, data.fitted.posterior
        experts = prior.shape[1]
        sizes = range(min(_MEASURED, max_experts - 1, experts - 1) + 1)
        sets = [members for size in sizes for members in combinations(range(experts), size)]
        codes = torch.tensor([sum(1 << expert for expert in members) for members in sets])
        order = codes.argsort()
        values: list[Tensor] = []
        for index in order.tolist():
            asked = torch.zeros(experts, dtype=torch.bool)
            asked[list(sets[index])] = True
            both = (asked.unsqueeze(-1) & asked).float()
            rows = asked.expand_as(prior)
            before = data.fitted.beliefs.current(prior, posterior, rows, data.same * both).sigmoid()
            after = (posterior + (data.moves * asked.float().unsqueeze(-1)).sum(dim=1)).sigmoid()
            values.append((after - before).std(dim=0).clamp(min=_FLOOR))
        table = torch.stack(values)
        return cls(codes=codes[order], values=torch.cat([table, table.mean(dim=0, keepdim=True)]))

    def after(self, asked: Tensor) -> Tensor:
        """Return the spreads [T, N] where some experts [T, N] bool were asked."""
        code = (asked * 2 ** torch.arange(asked.shape[1])).sum(dim=-1)
        place = torch.searchsorted(self.codes, code).clamp(max=len(self.codes) - 1)
        return self.values[torch.where(self.codes[place] == code, place, len(self.codes))]


@dataclass(frozen=True, kw_only=True, eq=False)
class CascadeRouting:
    """A tuned cascade router.

    Attributes:
        beliefs: the probability that each expert is right.
        price: [N] mean compute.
        spreads: of the estimates of the experts not asked.
        limit: maximum number of experts asked.
        first, later: factors on the compute weight, in the first step and in the others.
    """

    beliefs: Beliefs
    price: Tensor
    spreads: Spreads
    limit: int
    first: float
    later: float

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64 of the environment for observations [T, O] float32."""
        view = CascadeView.of(observation, len(self.price))
        prior = self.beliefs.prior(view.features)
        return self.choose(view, prior, self.beliefs.posterior(prior, view.confidence))

    def choose(self, view: CascadeView, prior: Tensor, posterior: Tensor) -> Tensor:
        """Return actions [T] int64 for beliefs [T, N], which are log-odds."""
        likely = self.beliefs.current(prior, posterior, view.asked, view.agree).sigmoid()
        answer = likely.masked_fill(~view.asked, -1.0).argmax(dim=-1)
        actions = answer + len(self.price)
        started = view.asked.any(dim=-1)
        number = view.asked.sum(dim=-1)
        spread = self.spreads.after(view.asked)
        for asked in number.unique().tolist():
            left = min(self.limit, len(self.price)) - asked
            rows = ((number == asked) & view.askable.any(dim=-1)).nonzero().squeeze(-1)
            if left <= 0 or len(rows) == 0:
                continue
            known = torch.where(started[rows], likely[rows].gather(-1, answer[rows, None]).squeeze(-1), 0.0)
            unit = (view.weight[rows] * (self.later if asked else self.first)).unsqueeze(-1)
            step = self._next(known, likely[rows], spread[rows], unit * self.price, view.askable[rows], left)
            actions[rows] = torch.where((step >= 0) | (asked == 0), step, actions[rows])
        return actions

    def _next(
        self, known: Tensor, likely: Tensor, spread: Tensor, price: Tensor, askable: Tensor, left: int
    ) -> Tensor:
        """Return the expert to ask next [T] int64, or -1 where no set is worth more than `known` [T]."""
        single = expected_best(known, likely.unsqueeze(-1), spread.unsqueeze(-1), torch.ones(1, 1))
        gain = (single.squeeze(-1) - price).masked_fill(~askable, -torch.inf)
        tried = min(_TRIED, len(self.price))
        who = gain.topk(tried, dim=-1).indices
        sets = torch.tensor(
            [
                [float(expert in members) for expert in range(tried)]
                for size in range(1, min(left, tried) + 1)
                for members in combinations(range(tried), size)
            ]
        )
        best = expected_best(known, likely.gather(-1, who), spread.gather(-1, who), sets)
        paid = price.gather(-1, who)
        worth = best - paid @ sets.T
        # A set with an expert that cannot be asked is not one.
        worth = worth.masked_fill((~askable.gather(-1, who)).float() @ sets.T > 0.0, -torch.inf)
        highest, place = worth.max(dim=-1)
        members = sets[place] > 0.0
        cheapest = paid.masked_fill(~members, torch.inf).argmin(dim=-1, keepdim=True)
        step = who.gather(-1, cheapest).squeeze(-1)
        # Where nothing was asked, `known` is 0 and some set must be taken.
        return torch.where((highest > known) | (known <= 0.0), step, -1)


def expected_best(known: Tensor, mean: Tensor, spread: Tensor, sets: Tensor) -> Tensor:
    """Return the expected highest of a known quality and those of each set, which are normal.

    Args:
        known: [...] in [0, 1].
        mean, spread: [..., K] of the normals, which are cut off at 0 and 1.
        sets: [S, K] float, 1 for members.

    Returns:
        [..., S].
    """
    grid = (torch.arange(_QUALITIES) + 0.5) / _QUALITIES
    below = torch.special.log_ndtr((grid - mean.unsqueeze(-1)) / spread.unsqueeze(-1))  # [..., K, G]
    while known.ndim < below.ndim - 2:
        known = known.unsqueeze(-1)
    chance = torch.einsum("sk,...kg->...sg", sets, below).exp()
    # Where the known quality lies within a cell of the grid, part of the cell is above it.
    above = ((grid + 0.5 / _QUALITIES - known.unsqueeze(-1)) * _QUALITIES).clamp(0.0, 1.0)
    return 1.0 - (chance * above.unsqueeze(-2)).mean(dim=-1)


def candidates(data: CascadeData, max_experts: int) -> Sequence[CascadeRouting]:
    """Return a rule for every pair of factors."""
    spreads = Spreads.of(data, max_experts)
    return [
        CascadeRouting(
            beliefs=data.fitted.beliefs,
            price=data.table.price,
            spreads=spreads,
            limit=max_experts,
            first=first,
            later=later,
        )
        for first, later in product(FACTORS, FACTORS)
    ]


def fit(problem: CascadeProblem, hyperparameters: NoHyperparameters, run: Run) -> CascadeRouting:
    """Choose the factors by cross-fitted beliefs on training and validation rows."""
    data = problem.data(run.seed)
    return best_candidate(candidates(data, problem.options.max_experts), problem, data)


METHOD = Method(
    name="cascade_routing",
    family="baseline",
    fit=fit,
    about="set of experts before each step (Dekoninck et al. 2024)",
)
