"""A cascade as a partially observed decision process whose hidden state is which experts are right.

Observations are the binned beliefs in the experts asked, and which of their answers agree where agreement
moves the beliefs; given the state they are taken as independent.
With few experts the belief tree is small, so the process is solved exactly by backward induction.

Source: Aggarwal, Madaan et al. 2024, AutoMix, section 3.3 (POMDP router), https://arxiv.org/abs/2310.12963.
Differences, all in its favour: any expert may come next, not only the next larger one; queries are grouped by
their priors, with a process for each group; and the solution is exact.

Legend: T queries, N experts, K states (sets of experts that are right), B bins, C groups of queries.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from envs import Core
from experts import InputError

from ...problems.cascade.cascade_data import CascadeData
from ...problems.cascade.problem import CascadeProblem
from ...routing.policies.cascade_beliefs import Beliefs
from ...routing.policies.cascade_policy import CascadeView
from ..method import Method, NoHyperparameters, Run
from .candidate_choice import best_candidate

__all__ = ["METHOD", "AutoMix", "fit", "fit_automix"]

_MOST_EXPERTS = 12  # with more the tree is too large to solve exactly
_GROUPS, _BINS = (1, 6, 16), (4, 7)


@dataclass(frozen=True, kw_only=True, eq=False)
class AutoMix:
    """A solved process.

    Attributes:
        beliefs: what is observed.
        centres: [C, N] of the groups, as probabilities of being right.
        edges: [N, B - 1] log-odds between the bins.
        actions_of: for each set of asked experts, in order: [C, B, ..., B] the best action, one B an expert;
            then one axis of size 2 for each pair of them, in order, if agreement is observed.
        agreement: whether it observes which answers agree.
    """

    beliefs: Beliefs
    centres: Tensor
    edges: Tensor
    actions_of: Mapping[tuple[int, ...], Tensor]
    agreement: bool = False

    def start(self, core: Core) -> None:
        """Do nothing: the policy has no state."""

    def act(self, observation: Tensor) -> Tensor:
        """Return actions [T] int64 of the environment for observations [T, O] float32."""
        view = CascadeView.of(observation, len(self.edges))
        prior = self.beliefs.prior(view.features)
        return self.choose(view, prior, self.beliefs.posterior(prior, view.confidence))

    def choose(self, view: CascadeView, prior: Tensor, posterior: Tensor) -> Tensor:
        """Return actions [T] int64 for beliefs [T, N], which are log-odds."""
        group = torch.cdist(prior.sigmoid(), self.centres).argmin(dim=-1)
        bins = _binned(posterior, self.edges)
        actions = torch.zeros(len(prior), dtype=torch.int64)
        code = (view.asked * 2 ** torch.arange(len(self.edges))).sum(dim=-1)
        for number in code.unique().tolist():
            members = tuple(expert for expert in range(len(self.edges)) if number >> expert & 1)
            rows = (code == number).nonzero().squeeze(-1)
            pairs = combinations(members, 2) if self.agreement else ()
            agree = [view.agree[rows, one, other].long() for one, other in pairs]
            actions[rows] = self.actions_of[members][(group[rows], *bins[rows][:, list(members)].T, *agree)]
        return actions


def fit(problem: CascadeProblem, hyperparameters: NoHyperparameters, run: Run) -> AutoMix:
    """Solve processes of several sizes, and choose one by cross-fitted beliefs.

    Raises:
        InputError: too many experts to solve them exactly.
    """
    data = problem.data(run.seed)
    weight, max_experts = problem.case.values["compute_weight"], problem.options.max_experts
    candidates = [
        fit_automix(data, weight, max_experts=max_experts, groups=groups, bins=bins, seed=run.seed)
        for groups, bins in product(_GROUPS, _BINS)
    ]
    return best_candidate(candidates, problem, data)


def fit_automix(
    data: CascadeData, weight: float, *, max_experts: int, groups: int, bins: int, seed: int
) -> AutoMix:
    """Estimate the process on rows by counting, and solve it.

    Args:
        data: the rows, with cross-fitted beliefs.
        weight: utility per unit of compute.
        max_experts: maximum number of experts asked.
        groups, bins: C and B.
        seed: of the grouping.

    Raises:
        InputError: too many experts to solve it exactly.
    """
    quality, price = data.quality, data.table.price
    prior, posterior = data.fitted.prior, data.fitted.posterior
    experts = quality.shape[1]
    if experts > _MOST_EXPERTS:
        reason = f"the belief tree of {experts} experts is too large to solve exactly"
        raise InputError("method", "automix", reason, f"leave it out above {_MOST_EXPERTS} experts")
    with warnings.catch_warnings():
        # Queries with equal priors make fewer groups, as without features; an empty group is harmless.
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(groups, random_state=seed).fit(prior.sigmoid().double().numpy())
    group = np.asarray(clusters.labels_)
    edges = torch.quantile(posterior, torch.linspace(0.0, 1.0, bins + 1)[1:-1], dim=0).T.contiguous()
    binned = _binned(posterior, edges).numpy()
    right = (quality >= 0.5).numpy()
    states, state = np.unique(right, axis=0, return_inverse=True)
    state = state.reshape(-1)
    worth = np.stack([quality[state == k].mean(dim=0).numpy() for k in range(len(states))])  # [K, N]
    overall = np.bincount(state, minlength=len(states)) / len(state)
    solved: dict[tuple[int, ...], list[np.ndarray]] = {}
    everywhere = _likelihood(binned, right, states, bins, None)
    agreement = data.fitted.beliefs.agreeing is not None
    agree = _agreement(data.same.numpy() > 0.0, right, states) if agreement else None
    after = None if data.table.after is None else data.table.after.tolist()
    for number in range(groups):
        rows = group == number
        # Two pseudo-rows of all queries keep states and bins possible that a small group lacks.
        share = np.bincount(state[rows], minlength=len(states)) + 2.0 * overall
        likelihood = _likelihood(binned[rows], right[rows], states, bins, everywhere)
        cost = weight * price.double().numpy()
        actions_of = _solve(
            share / share.sum(), likelihood, worth, cost, max_experts, agree=agree, after=after
        )
        for members, actions in actions_of.items():
            solved.setdefault(members, []).append(actions)
    return AutoMix(
        beliefs=data.fitted.beliefs,
        centres=torch.from_numpy(clusters.cluster_centers_).float(),
        edges=edges,
        actions_of={members: torch.from_numpy(np.stack(each)) for members, each in solved.items()},
        agreement=agreement,
    )


def _binned(posterior: Tensor, edges: Tensor) -> Tensor:
    columns = zip(edges, posterior.T.contiguous(), strict=True)
    return torch.stack([torch.searchsorted(edge, column) for edge, column in columns], dim=-1)


def _likelihood(
    binned: np.ndarray, right: np.ndarray, states: np.ndarray, bins: int, prior: np.ndarray | None
) -> np.ndarray:
    """Return the probability [N, B, K] of each expert's bin given the state.

    Args:
        binned: [T, N] int64 bins.
        right: [T, N] bool.
        states: [K, N] bool.
        bins: B.
        prior: the same for all queries, with a weight of four rows; None: uniform.
    """
    experts = right.shape[1]
    likelihood = np.empty((experts, bins, len(states)))
    for expert in range(experts):
        for value in (False, True):
            counts = np.bincount(binned[right[:, expert] == value, expert], minlength=bins) + 0.0
            of_value = states[:, expert] == value
            if not of_value.any():
                continue
            rest = np.full(bins, 1.0 / bins) if prior is None else prior[expert][:, of_value][:, 0]
            counts = counts + 4.0 * rest
            likelihood[expert][:, of_value] = (counts / counts.sum())[:, None]
    return likelihood


def _agreement(same: np.ndarray, right: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return the probability [N, N, 2, K] that two answers differ, or agree, given the state.

    Args:
        same: [T, N, N] bool.
        right: [T, N] bool.
        states: [K, N] bool.
    """
    experts = right.shape[1]
    chance = np.empty((experts, experts, 2, len(states)))
    for one, other in combinations(range(experts), 2):
        equal = same[:, one, other]
        for values in product((False, True), repeat=2):
            rows = (right[:, one] == values[0]) & (right[:, other] == values[1])
            rate = (equal[rows].sum() + 2.0 * equal.mean()) / (rows.sum() + 2.0)
            of_values = (states[:, one] == values[0]) & (states[:, other] == values[1])
            chance[one, other, 0, of_values], chance[one, other, 1, of_values] = 1.0 - rate, rate
    return chance


def _solve(
    share: np.ndarray,
    likelihood: np.ndarray,
    worth: np.ndarray,
    price: np.ndarray,
    max_experts: int,
    *,
    agree: np.ndarray | None = None,
    after: Sequence[int] | None = None,
) -> dict[tuple[int, ...], np.ndarray]:
    """Return the best action for every set of asked experts and their bins.

    Args:
        share: [K] of the states.
        likelihood: [N, B, K].
        worth: [K, N] quality of each expert's answer.
        price: [N] utility that asking costs.
        max_experts: maximum number of experts asked.
        agree: [N, N, 2, K] probability that two answers differ, or agree; None: it is not observed.
        after: the expert that must be asked before each, -1 for none; None: none for all.

    Returns:
        [B, ..., B] int64 for each set, one B an expert in order, then a 2 for each pair if `agree` is given.
    """
    experts = len(likelihood)
    before = [-1] * experts if after is None else after
    actions: dict[tuple[int, ...], np.ndarray] = {}
    later: dict[tuple[int, ...], np.ndarray] = {}
    for size in range(min(max_experts, experts), -1, -1):
        values: dict[tuple[int, ...], np.ndarray] = {}
        for members in combinations(range(experts), size):
            joint = share  # [B, ..., B, K], the probability of these bins and the state
            for expert in members:
                joint = joint[..., None, :] * likelihood[expert]
            if agree is not None:
                for one, other in combinations(members, 2):
                    joint = joint[..., None, :] * agree[one, other]
            mass = joint.sum(axis=-1)
            # Worth times the probability of the bins, so that the value of asking is a sum over the next bin.
            options = [joint @ worth[:, expert] for expert in members]
            names = [experts + expert for expert in members]
            if size < min(max_experts, experts):
                for expert in sorted(set(range(experts)) - set(members)):
                    if before[expert] >= 0 and before[expert] not in members:
                        continue
                    joined = tuple(sorted((*members, expert)))
                    seen = [joined.index(expert)]  # the axes of what asking it shows
                    if agree is not None:
                        pairs = enumerate(combinations(joined, 2))
                        seen += [len(joined) + axis for axis, pair in pairs if expert in pair]
                    options.append(later[joined].sum(axis=tuple(seen)) - price[expert] * mass)
                    names.append(expert)
            stacked = np.stack(options)
            values[members] = stacked.max(axis=0)
            actions[members] = np.array(names)[stacked.argmax(axis=0)]
        later = values
    return actions


METHOD = Method(
    name="automix",
    family="baseline",
    fit=fit,
    about="POMDP, solved exactly (AutoMix, Aggarwal et al. 2024)",
)
