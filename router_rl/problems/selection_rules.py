"""Construct the selection rule of a given name for a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from experts import InputError, OutcomeTable
from experts.io.errors import unknown_name

from ..routing import AdaptiveK, ExpertChoice, Hard, Hierarchical, Selection, Soft, TopK, Tree
from .rule_names import RULES

__all__ = ["RULES", "grow_tree", "named_tree", "selection"]


def selection(
    select: str | Selection,
    table: OutcomeTable,
    *,
    k: int = 2,
    tree: Mapping[str, Any] | None = None,
    feedback: str = "full",
) -> Selection:
    """Return the selection rule of a name, or the given rule, after checking it.

    Args:
        select: a name in `RULES`, or a rule.
        table: gives the experts.
        k: experts per decision (topk), or the maximum (adaptive_k).
        tree: for hierarchical, `{branch: {branch: ...} or [experts]}` by name; built from the training rows
            if None.
        feedback: under `bandit` no tree can be built.

    Raises:
        InputError: the name or the tree is wrong; the error suggests the nearest name.
        RouterError: the rule does not fit the number of experts.
    """
    if not isinstance(select, str):
        rule = select
    elif select not in RULES:
        raise unknown_name("select", select, RULES)
    elif select == "hierarchical" and tree is None and feedback == "bandit":
        problem = "is built from all outcomes, which bandit feedback hides"
        raise InputError("tree", None, problem, "name the experts of each branch, or use hard")
    else:
        count = len(table.experts)
        rule = {
            "hard": Hard,
            "topk": lambda: TopK(k=k),
            "soft": lambda: Soft(k=count),
            "hierarchical": lambda: Hierarchical(
                tree=grow_tree(table) if tree is None else named_tree(tree, table.experts)
            ),
            "adaptive_k": lambda: AdaptiveK(k=k),
            "expert_choice": lambda: ExpertChoice(k=count),
        }[select]()
    rule.check(len(table.experts))
    return rule


def named_tree(tree: Mapping[str, Any], experts: Sequence[str]) -> Tree:
    """Convert a tree of expert names to a tree of their ids.

    >>> named_tree({"prose": ["fiction"], "coding": {"script": ["python", "javascript"], "c": ["c"]}},
    ...            ["fiction", "python", "javascript", "c"])
    ('root', (('prose', (0,)), ('coding', (('script', (1, 2)), ('c', (3,))))))

    Raises:
        InputError: a branch is empty or is neither branches nor names of experts, or the leaves are not all
            experts, each once.
    """
    ids = {name: index for index, name in enumerate(experts)}
    leaves: list[str] = []

    def build(name: str, below: Any) -> Tree:
        names = [below] if isinstance(below, str) else below
        if not isinstance(names, Mapping | list | tuple) or not names:
            reason = f"the branch {name!r} is neither branches nor names of experts"
            raise InputError("problem.tree", tree, reason, "write {branch: [expert, ...], ...}")
        if isinstance(names, Mapping):
            return name, tuple(build(str(child), inner) for child, inner in names.items())
        for expert in names:
            if expert not in experts:
                raise unknown_name("problem.tree", str(expert), ids)
        leaves.extend(names)
        return name, tuple(ids[expert] for expert in names)

    built = build("root", tree)
    for expert in experts:
        if leaves.count(expert) != 1:
            reason = f"has the expert {expert!r} {leaves.count(expert)} times"
            raise InputError("problem.tree", tree, reason, "give each expert once")
    return built


def grow_tree(table: OutcomeTable) -> Tree:
    """Build a two-level tree that groups experts that are right on the same queries.

    Average linkage on one minus the correlation of their qualities on the training rows, cut into about the
    square root of their number; a group of one expert becomes a leaf.

    Args:
        table: with training rows.

    Raises:
        InputError: there are fewer than three experts.
    """
    count = len(table.experts)
    if count < 3:
        raise InputError(
            "select", "hierarchical", f"needs three experts or more, the table has {count}", "use hard"
        )
    quality = table.part("train").quality.astype(np.float64)
    spread = quality.std(axis=0)
    scaled = (quality - quality.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    correlation = scaled.T @ scaled / len(scaled)
    distance = np.maximum(1.0 - correlation[np.triu_indices(count, 1)], 0.0)
    groups = fcluster(linkage(distance, "average"), max(2, round(count**0.5)), "maxclust")
    children: list[Tree] = []
    for number, group in enumerate(dict.fromkeys(groups.tolist())):
        members = tuple(int(expert) for expert in np.flatnonzero(groups == group))
        children.append(members[0] if len(members) == 1 else (f"group-{number}", members))
    if len(children) == 1:
        return "root", tuple(range(count))
    return "root", tuple(children)
