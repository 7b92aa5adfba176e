"""The selection rule of a token-level problem, from its options and the mixture's own gates."""

from __future__ import annotations

from dataclasses import replace

from experts import InputError
from experts.moe.token_pool import TokenPool

from ...routing import AdaptiveK, Hard, Hierarchical, ScoredTopK, Selection, TopK, UnnormalisedTopK
from ...routing.selection.hierarchical import Tree
from ..selection_rules import named_tree
from .token_moe_options import TokenMoEOptions

__all__ = ["check_selection", "experts_per_token", "selection_of", "selections_of", "tree_of"]


def experts_per_token(options: TokenMoEOptions, pool: TokenPool) -> tuple[int, ...]:
    """Return the experts per token of each case.

    Args:
        options: of the problem.
        pool: the opened pool.

    Raises:
        InputError: the pool has too few experts, or the score has no effect.
    """
    if pool.gates is not None:
        return (pool.gates.k,)
    counts = options.experts_per_token
    counts = (counts,) if isinstance(counts, int) else tuple(counts)
    for count in counts:
        if count not in (1, 2) or count > pool.tail.experts:
            reason = f"{pool.tail.experts} experts can run 1 or 2 at a time"
            raise InputError("problem.experts_per_token", count, reason, "use 1, 2 or [1, 2]")
    if options.score not in ("softmax", "sigmoid"):
        raise InputError("problem.score", options.score, "is unknown", "use softmax or sigmoid")
    if options.score == "sigmoid" and max(counts) == 1:
        reason = "has no effect with one expert per token, whose weight is 1"
        raise InputError("problem.score", options.score, reason, "leave it out: both forms take such routers")
    return counts


def check_selection(options: TokenMoEOptions, pool: TokenPool) -> None:
    """Check that the options of the selection rule go together.

    Args:
        options: of the problem.
        pool: the opened pool.

    Raises:
        InputError: they do not.
    """
    count = {"hierarchical": 1, "adaptive_k": 2}.get(options.select)
    for name, rule in (("tree", "hierarchical"), ("expert_price", "adaptive_k")):
        value = getattr(options, name)
        if value and options.select != rule:
            problem, fix = f"select {options.select} does not use it", f"leave it out, or select {rule}"
            raise InputError(f"problem.{name}", value, problem, fix)
    if count is None:
        return
    if pool.gates is not None:
        reason = "is for experts of problem.base; problem.model has selection rules of its own"
        raise InputError("problem.select", options.select, reason, "leave it out")
    if options.experts_per_token not in (count, (count,)):
        reason = f"{options.select} selects {'one expert' if count == 1 else 'at most two experts'} per token"
        fix = f"use {count}, or select topk"
        raise InputError("problem.experts_per_token", options.experts_per_token, reason, fix)
    if options.select == "adaptive_k" and (options.score != "softmax" or pool.problems is not None):
        reason = "is for text, and experts that are weighted by softmax"
        raise InputError("problem.select", options.select, reason, "select topk")


def tree_of(options: TokenMoEOptions, pool: TokenPool) -> Tree | None:
    """Return the tree of hierarchical selection, or None for the best experts.

    Args:
        options: of the problem.
        pool: the opened pool.

    Raises:
        InputError: there is no tree, or it does not fit the experts.
    """
    if options.select != "hierarchical":
        return None
    if options.tree is not None:
        return named_tree(options.tree, pool.tail.names)
    if all(isinstance(child, int) for child in pool.tree[1]):
        fix = "write {branch: [expert, ...], ...}"
        raise InputError("problem.tree", None, "is missing: these experts have no tree", fix)
    tree: Tree = pool.tree
    return tree


def selection_of(options: TokenMoEOptions, pool: TokenPool, count: int) -> Selection:
    """Return the selection rule, without the selection biases that layers of a model may have.

    Args:
        options: of the problem.
        pool: the opened pool.
        count: experts per token.

    Raises:
        InputError: selection is hierarchical, and there is no tree or it does not fit the experts.
    """
    tree, gates = tree_of(options, pool), pool.gates
    if tree is not None:
        return Hierarchical(tree=tree)
    if options.select == "adaptive_k":
        return AdaptiveK(k=count)
    score = options.score if gates is None else gates.score
    if gates is not None and not gates.normalised:
        return UnnormalisedTopK(k=count, score=score, groups=gates.groups, kept=gates.kept)
    if gates is not None and (gates.groups > 1 or gates.bias is not None):
        return ScoredTopK(k=count, score=score, groups=gates.groups, kept=gates.kept)
    if count == 1:
        return Hard()
    return TopK(k=count) if score == "softmax" else ScoredTopK(k=count, score="sigmoid")


def selections_of(rule: Selection, pool: TokenPool) -> tuple[Selection, ...]:
    """Return the selection rule of each layer, with the selection biases of the mixture's gates.

    Args:
        rule: the rule without biases.
        pool: the opened pool.
    """
    gates = pool.gates
    if gates is None or gates.bias is None:
        return (rule,) * pool.tail.depth
    assert isinstance(rule, ScoredTopK | UnnormalisedTopK)
    return tuple(replace(rule, bias=tuple(bias)) for bias in gates.bias.tolist())
