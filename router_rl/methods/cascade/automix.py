"""A cascade as a partially observed decision process with a hidden state: who would be right on this query.

Observations are the binned beliefs in the experts asked; given who is right they are taken as independent.
With few experts asked the belief tree is small, and the process is solved exactly by backward induction.

Source: Aggarwal, Madaan et al. 2024, AutoMix, section 3.3 (POMDP router), https://arxiv.org/abs/2310.12963.
We differ in giving it more: any expert may come next, not only the next larger one; queries are grouped by
their priors, with a process for each group; and the solution is exact.

Legend: T queries, N experts, K kinds of who is right, B bins, C groups of queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from experts import InputError

from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView

__all__ = ["AutoMix", "fit_automix"]

_MOST_EXPERTS = 12  # beyond it the tree is too large to solve exactly


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoMix:
    """A solved process.

    Attributes:
        beliefs: what is observed.
        centres: [C, N] of the groups, in chances of being right.
        edges: [N, B - 1] log-odds between the bins.
        actions_of: for each set of asked experts, in order: [C, B, ..., B] the best action, one B an expert.
    """

    beliefs: Beliefs
    centres: Tensor
    edges: Tensor
    actions_of: Mapping[tuple[int, ...], Tensor]

    def actions(self, observation: Tensor) -> Tensor:
        """Actions [T] int64 of the environment."""
        view = CascadeView.of(observation, len(self.edges))
        prior = self.beliefs.prior(view.features)
        return self.choose(view, prior, self.beliefs.posterior(prior, view.confidence))

    def choose(self, view: CascadeView, prior: Tensor, posterior: Tensor) -> Tensor:
        """Actions [T] int64, given the beliefs [T, N]."""
        group = torch.cdist(prior.sigmoid(), self.centres).argmin(dim=-1)
        bins = _binned(posterior, self.edges)
        chosen = torch.zeros(len(prior), dtype=torch.int64)
        code = (view.asked * 2 ** torch.arange(len(self.edges))).sum(dim=-1)
        for one in code.unique().tolist():
            members = tuple(expert for expert in range(len(self.edges)) if one >> expert & 1)
            rows = (code == one).nonzero().squeeze(-1)
            chosen[rows] = self.actions_of[members][(group[rows], *bins[rows][:, list(members)].T)]
        return chosen


def fit_automix(
    beliefs: Beliefs,
    prior: Tensor,
    posterior: Tensor,
    quality: Tensor,
    price: Tensor,
    weight: float,
    *,
    limit: int,
    groups: int,
    bins: int,
    seed: int,
) -> AutoMix:
    """Count the process on rows and solve it.

    Args:
        beliefs: for new queries.
        prior, posterior: [T, N] log-odds of the rows.
        quality: [T, N].
        price: [N] mean compute.
        weight: utility per unit of compute.
        limit: the most experts asked.
        groups, bins: C and B.
        seed: of the grouping.

    Raises:
        InputError: too many experts to solve it exactly.
    """
    experts = quality.shape[1]
    if experts > _MOST_EXPERTS:
        problem = f"the belief tree of {experts} experts is too large to solve exactly"
        raise InputError("method", "automix", problem, f"leave it out above {_MOST_EXPERTS} experts")
    clusters = KMeans(groups, random_state=seed).fit(prior.sigmoid().double().numpy())
    group = np.asarray(clusters.labels_)
    edges = torch.quantile(posterior, torch.linspace(0.0, 1.0, bins + 1)[1:-1], dim=0).T.contiguous()
    seen = _binned(posterior, edges).numpy()
    right = (quality >= 0.5).numpy()
    kinds, kind = np.unique(right, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    worth = np.stack([quality[kind == one].mean(dim=0).numpy() for one in range(len(kinds))])  # [K, N]
    overall = np.bincount(kind, minlength=len(kinds)) / len(kind)
    solved: dict[tuple[int, ...], list[np.ndarray]] = {}
    everywhere = _likelihood(seen, right, kinds, bins, None)
    for one in range(groups):
        rows = group == one
        # A few rows' worth of the whole keeps kinds and bins that a small group has not seen possible.
        share = np.bincount(kind[rows], minlength=len(kinds)) + 2.0 * overall
        likelihood = _likelihood(seen[rows], right[rows], kinds, bins, everywhere)
        found = _solve(share / share.sum(), likelihood, worth, weight * price.double().numpy(), limit)
        for members, actions in found.items():
            solved.setdefault(members, []).append(actions)
    return AutoMix(
        beliefs=beliefs,
        centres=torch.from_numpy(clusters.cluster_centers_).float(),
        edges=edges,
        actions_of={members: torch.from_numpy(np.stack(each)) for members, each in solved.items()},
    )


def _binned(posterior: Tensor, edges: Tensor) -> Tensor:
    columns = zip(edges, posterior.T.contiguous(), strict=True)
    return torch.stack([torch.searchsorted(edge, column) for edge, column in columns], dim=-1)


def _likelihood(
    seen: np.ndarray, right: np.ndarray, kinds: np.ndarray, bins: int, otherwise: np.ndarray | None
) -> np.ndarray:
    """The chance [N, B, K] of each expert's bin given the kind, of bins seen [T, N] and right [T, N]."""
    experts = right.shape[1]
    found = np.empty((experts, bins, len(kinds)))
    for expert in range(experts):
        for value in (False, True):
            counts = np.bincount(seen[right[:, expert] == value, expert], minlength=bins) + 0.0
            of = kinds[:, expert] == value
            if not of.any():
                continue
            rest = np.full(bins, 1.0 / bins) if otherwise is None else otherwise[expert][:, of][:, 0]
            counts = counts + 4.0 * rest
            found[expert][:, of] = (counts / counts.sum())[:, None]
    return found


def _solve(
    share: np.ndarray, likelihood: np.ndarray, worth: np.ndarray, price: np.ndarray, limit: int
) -> dict[tuple[int, ...], np.ndarray]:
    """The best action for every set of asked experts and their bins.

    Args:
        share: [K] of the kinds.
        likelihood: [N, B, K].
        worth: [K, N] quality of each expert's answer.
        price: [N] what asking costs.
        limit: the most experts asked.

    Returns:
        [B, ..., B] int64 for each set, one B an expert in order.
    """
    experts = len(likelihood)
    actions: dict[tuple[int, ...], np.ndarray] = {}
    after: dict[tuple[int, ...], np.ndarray] = {}
    for size in range(min(limit, experts), -1, -1):
        values: dict[tuple[int, ...], np.ndarray] = {}
        for members in combinations(range(experts), size):
            joint = share  # [B, ..., B, K], the chance of these bins and the kind
            for expert in members:
                joint = joint[..., None, :] * likelihood[expert]
            mass = joint.sum(axis=-1)
            # Worth times the chance of being here, so that going on is a plain sum over the next bin.
            options = [joint @ worth[:, expert] for expert in members]
            names = [experts + expert for expert in members]
            if size < min(limit, experts):
                for expert in sorted(set(range(experts)) - set(members)):
                    joined = tuple(sorted((*members, expert)))
                    options.append(after[joined].sum(axis=joined.index(expert)) - price[expert] * mass)
                    names.append(expert)
            stacked = np.stack(options)
            values[members] = stacked.max(axis=0)
            actions[members] = np.array(names)[stacked.argmax(axis=0)]
        after = values
    return actions
