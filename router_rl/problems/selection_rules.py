"""From a selection rule's name to the rule, for the table it will be used on."""

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
    """The rule of a name, or the rule itself.

    Args:
        select: a name in `RULES`, or a rule.
        table: whose experts are chosen among.
        k: experts a decision runs (topk), or may run (adaptive_k).
        tree: for hierarchical, `{branch: {branch: ...} or [experts]}` by name; one grown from the training
            rows if None.
        feedback: under `bandit` no tree can be grown.

    Raises:
        InputError: the name or the tree is wrong; suggests what is known.
        RouterError: the rule does not fit the number of experts.
    """
    if not isinstance(select, str):
        rule = select
    elif select not in RULES:
        raise unknown_name("select", select, RULES)
    elif select == "hierarchical" and tree is None and feedback == "bandit":
        problem = "would be grown from all outcomes, which bandit feedback hides"
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
    """A tree of expert names as a tree of their ids.

    >>> named_tree({"prose": ["fiction"], "coding": {"script": ["python", "javascript"], "c": ["c"]}},
    ...            ["fiction", "python", "javascript", "c"])
    ('root', (('prose', (0,)), ('coding', (('script', (1, 2)), ('c', (3,))))))

    Raises:
        InputError: a name is no expert's.
    """
    ids = {name: index for index, name in enumerate(experts)}

    def build(name: str, below: Any) -> Tree:
        if isinstance(below, Mapping):
            return name, tuple(build(str(child), inner) for child, inner in below.items())
        names = [below] if isinstance(below, str) else list(below)
        for expert in names:
            if expert not in ids:
                raise unknown_name("tree", str(expert), ids)
        return name, tuple(ids[expert] for expert in names)

    return build("root", tree)


def grow_tree(table: OutcomeTable) -> Tree:
    """A two-level tree of experts that are right on the same queries.

    Average linkage on one minus the correlation of their qualities on the training rows, cut into about
    the square root of their number; a group of one expert is that expert.

    Raises:
        InputError: there are fewer than three experts, so there is nothing to group.
    """
    count = len(table.experts)
    if count < 3:
        raise InputError("select", "hierarchical", f"{count} experts make no tree", "use hard")
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
