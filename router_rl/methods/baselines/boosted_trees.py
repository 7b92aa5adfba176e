"""Gradient-boosted trees: scikit-learn's regressions of each expert's quality and cost on the features.

An expert's score is its predicted quality minus the compute weight times its predicted compute. Quality and
cost do not depend on the compute weight, so one fit serves all compute weights of a comparison. Each tree is
fitted to at most 1,000 rows drawn at random, and each split examines the square root of the number of
features (stochastic gradient boosting), so that large tables take minutes, not hours.

Source: Friedman 2001, https://doi.org/10.1214/aos/1013203451; Friedman 2002,
    https://doi.org/10.1016/S0167-9473(01)00065-2.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from sklearn.ensemble import GradientBoostingRegressor

from envs import Outcomes
from envs.reward import expert_utility
from experts.io.value_range import Count, Positive, Range, Width

from ...problems.routing.problem import RoutingProblem
from ...routing import Router, TreeScorer
from ..hyperparameters import Hyperparameters
from ..method import Method, Run

__all__ = ["METHOD", "SPACE", "BoostedTreesHyperparameters", "Forest", "fit", "fit_forest"]

_MAX_ROWS = 1000  # rows that one tree is fitted to


@dataclass(frozen=True, kw_only=True)
class BoostedTreesHyperparameters(Hyperparameters):
    """Hyperparameters of the boosted trees.

    Attributes:
        trees: number of trees for each expert's quality, and again for its cost.
        depth: splits from the root of a tree to a leaf.
        learning_rate: shrinkage of each tree.
        min_samples_leaf: minimum number of rows in a leaf.
    """

    trees: Width = 50
    depth: Annotated[int, Range(1, 16)] = 3
    learning_rate: Positive = 0.1
    min_samples_leaf: Count = 10


SPACE = {
    "trees": (25, 50, 100),
    "depth": (2, 3, 4),
    "learning_rate": (0.05, 0.1, 0.2),
    "min_samples_leaf": (5, 10, 30),
}


class Forest(NamedTuple):
    """Trees of N targets in the layout of `TreeScorer`.

    Attributes:
        feature: [N, M, 2^depth - 1] int64.
        threshold: [N, M, 2^depth - 1] float32.
        leaf: [N, M, 2^depth] float64, times the learning rate.
        bias: [N] float64, mean of each target.
    """

    feature: np.ndarray
    threshold: np.ndarray
    leaf: np.ndarray
    bias: np.ndarray


def fit(problem: RoutingProblem, hyperparameters: BoostedTreesHyperparameters, run: Run) -> Router:
    """Fit the trees and return the router that evaluates all of them at once."""
    outcomes = problem.outcomes()
    weight = problem.objective.compute_weight
    utility = expert_utility(outcomes, weight)
    lifted = problem.rule.lift(utility, temperature=0.0)
    if lifted.shape == utility.shape and torch.equal(lifted, utility):
        key = ("boosted_trees", astuple(hyperparameters), run.seed)
        quality, compute = problem.cached(
            key,
            lambda: tuple(
                _forest(outcomes, target, hyperparameters, run.seed)
                for target in (outcomes.quality, outcomes.compute)
            ),
        )
        forest = _difference(quality, compute, weight)
    else:  # the value of a group of experts is not linear in theirs
        forest = _forest(outcomes, lifted, hyperparameters, run.seed)
    outputs, trees, _ = forest.leaf.shape
    scorer = TreeScorer(outcomes.features.shape[1], outputs, trees, hyperparameters.depth)
    with torch.no_grad():
        scorer.feature.copy_(torch.from_numpy(forest.feature).flatten(0, 1))
        scorer.threshold.copy_(torch.from_numpy(forest.threshold).flatten(0, 1))
        scorer.leaf.copy_(torch.from_numpy(forest.leaf).flatten(0, 1))
        scorer.bias.copy_(torch.from_numpy(forest.bias))
    return problem.wrap(scorer).eval()


def fit_forest(
    x: np.ndarray, targets: np.ndarray, hyperparameters: BoostedTreesHyperparameters, seed: int
) -> Forest:
    """Fit boosted trees to each target; a target that does not vary has no tree that splits.

    Args:
        x: [T, D] float32.
        targets: [T, N] float64.
        hyperparameters: of the trees.
        seed: random seed of the rows and features of each tree.
    """
    count, trees, nodes = targets.shape[1], hyperparameters.trees, 2**hyperparameters.depth - 1
    mean = targets.mean(axis=0)
    if (np.ptp(targets, axis=0) < 1e-9).all():
        trees = 1
    feature = np.zeros((count, trees, nodes), dtype=np.int64)
    threshold = np.full((count, trees, nodes), np.inf, dtype=np.float32)
    leaf = np.zeros((count, trees, nodes + 1))
    for target in range(count):
        residual = targets[:, target] - mean[target]
        if np.ptp(residual) < 1e-9:
            continue
        model = GradientBoostingRegressor(
            n_estimators=trees,
            max_depth=hyperparameters.depth,
            learning_rate=hyperparameters.learning_rate,
            min_samples_leaf=hyperparameters.min_samples_leaf,
            subsample=min(0.5, _MAX_ROWS / len(x)),
            max_features="sqrt",
            init="zero",
            random_state=seed,
        ).fit(x, residual)
        for number, (estimator,) in enumerate(model.estimators_):
            _complete(
                estimator.tree_, feature[target, number], threshold[target, number], leaf[target, number]
            )
    return Forest(feature, threshold, leaf * hyperparameters.learning_rate, mean)


def _forest(
    outcomes: Outcomes, target: torch.Tensor, hyperparameters: BoostedTreesHyperparameters, seed: int
) -> Forest:
    x, y = outcomes.features.cpu().numpy(), target.double().cpu().numpy()
    return fit_forest(x, y, hyperparameters, seed)


def _difference(quality: Forest, compute: Forest, weight: float) -> Forest:
    """Return the trees of `quality - weight * compute`."""
    return Forest(
        np.concatenate([quality.feature, compute.feature], axis=1),
        np.concatenate([quality.threshold, compute.threshold], axis=1),
        np.concatenate([quality.leaf, -weight * compute.leaf], axis=1),
        quality.bias - weight * compute.bias,
    )


def _complete(tree: Any, feature: np.ndarray, threshold: np.ndarray, leaf: np.ndarray) -> None:
    """Write a scikit-learn tree into the arrays of a complete binary tree, in place.

    scikit-learn compares float32 features with float64 thresholds. The largest float32 number that is not
    above such a threshold decides alike.
    """
    half = tree.threshold.astype(np.float32)
    half = np.where(half > tree.threshold, np.nextafter(half, np.float32(-np.inf)), half)
    waiting = [(0, 0)]  # node of the tree, place in the complete tree
    while waiting:
        node, place = waiting.pop()
        if tree.children_left[node] >= 0:
            feature[place], threshold[place] = tree.feature[node], half[node]
            waiting += [(tree.children_left[node], 2 * place + 1), (tree.children_right[node], 2 * place + 2)]
        elif place < len(feature):  # an early leaf: all rows go to the left, down to a leaf of the last level
            waiting.append((node, 2 * place + 1))
        else:
            leaf[place - len(feature)] = tree.value[node, 0, 0]


METHOD = Method(
    name="boosted_trees",
    family="baseline",
    fit=fit,
    hyperparameters=BoostedTreesHyperparameters,
    space=SPACE,
    about="gradient-boosted trees of quality and cost",
    sparse=True,
)
