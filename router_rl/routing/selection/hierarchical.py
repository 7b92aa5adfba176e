"""Hierarchical selection: one child per level of a named tree (general -> coding -> python).

Every branch has its own logit; the children of a node share a softmax, and an expert's probability is the
product along its path (Jordan and Jacobs 1994, eq. 5-6, https://doi.org/10.1162/neco.1994.6.2.181). Greedy
selection takes the best child at each level, which may not be the most probable expert.
"""

from __future__ import annotations

import functools
import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Union

import torch
from torch import Tensor

from ..router_error import RouterError
from .gumbel import gumbel_like
from .hard import categorical_entropy
from .rule import Choice, Selection

__all__ = ["Hierarchical", "Tree"]

# A leaf is an expert's id; an inner node is its name and its children.
Tree = Union[int, tuple[str, tuple["Tree", ...]]]  # noqa: UP007 (a string cannot be joined with | on 3.10)


@dataclass(frozen=True)
class Hierarchical(Selection):
    """One expert, chosen level by level.

    Attributes:
        tree: the root: (name, children), where a child is an expert's id or again (name, children).

    >>> rule = Hierarchical(tree=("general", (0, ("coding", (1, 2)))))
    >>> rule.branches
    ('0', 'coding', '1', '2')
    >>> rule.select(torch.tensor([[0.0, 1.0, 0.3, 0.2]])).experts
    tensor([[1]])
    """

    tree: Tree
    name: ClassVar[str] = "hierarchical"
    k = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "tree", _frozen(self.tree))
        if isinstance(self.tree, int):
            raise RouterError("Hierarchical.tree is one expert; give a name and its children")

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of the branches, in the order of the logits; an expert's is its id."""
        return tuple(name for name, _, _ in self._walk())

    def check(self, experts: int) -> None:
        """Raise RouterError unless the leaves are the experts, each once."""
        leaves = sorted(leaf for _, below, inner in self._walk() if not inner for leaf in below)
        if leaves != list(range(experts)):
            raise RouterError(
                f"Hierarchical.tree has the leaves {leaves} but there are {experts} experts; "
                f"give each of 0 to {experts - 1} once"
            )

    def spec(self) -> dict[str, Any]:
        """The rule as JSON."""
        return {"rule": self.name, "tree": json.loads(json.dumps(self.tree))}

    def outputs(self, experts: int) -> int:
        """One logit a branch."""
        return len(self._walk())

    def select(self, logits: Tensor) -> Choice:
        """Follow the best child from the root; ties go to the first child."""
        experts = self._follow(logits)
        return Choice(experts, self.weigh(logits, experts))

    def sample(self, logits: Tensor, noise: Tensor | None = None) -> Tensor:
        """Draw a child at each level; [T, 1] int64."""
        return self._follow(logits + gumbel_like(logits, noise))

    def weigh(self, logits: Tensor, experts: Tensor) -> Tensor:
        """All ones, [T, 1] float32."""
        return torch.ones(experts.shape, dtype=torch.float32, device=experts.device)

    def log_prob(self, logits: Tensor, action: Tensor) -> Tensor:
        """Sum of the branches' log-probabilities along the path, [T] float32."""
        return self.leaf_log_probabilities(logits).gather(-1, action).squeeze(-1)

    def entropy(self, logits: Tensor) -> Tensor:
        """Entropy of the expert reached, [T] float32, nats."""
        return categorical_entropy(self.leaf_log_probabilities(logits))

    def leaf_log_probabilities(self, logits: Tensor) -> Tensor:
        """Log-probability [T, N] float32 of reaching each expert."""
        # Minus infinity times 0 is NaN; a large negative number has the same effect.
        scores = logits.float().clamp(min=-1e6)
        branch = torch.cat([scores[..., a:b].log_softmax(dim=-1) for a, b in self._families()], dim=-1)
        return branch @ self._paths(logits.device).T

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability [T, N] float32 of reaching each expert."""
        return self.leaf_log_probabilities(logits).exp()

    def prefer(self, expert: int, experts: int) -> Tensor:
        """The branches on this expert's path."""
        return torch.where(self._paths(torch.device("cpu"))[expert] > 0, 0.0, -1e4)

    def mask(self, logits: Tensor, allowed: Tensor) -> Tensor:
        """A branch may be chosen if any expert below it is allowed."""
        open_below = (allowed.float() @ self._paths(logits.device)) > 0
        return logits.masked_fill(~open_below, float("-inf"))

    def lift(self, values: Tensor, temperature: float = 1.0) -> Tensor:
        """A branch has the log-sum-exp (at temperature 0 the maximum) of the experts below it."""
        columns: list[Tensor] = []
        for _, below, _ in self._walk():
            inside = values[..., list(below)]
            if temperature == 0.0:
                columns.append(inside.amax(dim=-1))
            else:
                columns.append(temperature * (inside / temperature).logsumexp(dim=-1))
        return torch.stack(columns, dim=-1)

    def _follow(self, scores: Tensor) -> Tensor:
        """The leaf all of whose branches are the best among their siblings, [T, 1]."""
        best = torch.cat([_is_first_largest(scores[..., a:b]) for a, b in self._families()], dim=-1)
        paths = self._paths(scores.device)
        steps = best.float() @ paths.T
        return (steps == paths.sum(dim=-1)).float().argmax(dim=-1, keepdim=True)

    def _walk(self) -> list[tuple[str, tuple[int, ...], bool]]:
        """Branches family by family: name, experts below, whether it branches again."""
        branches: list[tuple[str, tuple[int, ...], bool]] = []
        waiting: list[Tree] = [self.tree]
        while waiting:
            node = waiting.pop(0)
            if isinstance(node, int):
                continue
            for child in node[1]:
                inner = not isinstance(child, int)
                branches.append(
                    (child[0] if isinstance(child, tuple) else str(child), tuple(_leaves(child)), inner)
                )
                waiting.append(child)
        return branches

    @functools.cache  # noqa: B019
    def _families(self) -> list[tuple[int, int]]:
        """The range of each family of siblings among the branches."""
        bounds: list[tuple[int, int]] = []
        waiting: list[Tree] = [self.tree]
        begin = 0
        while waiting:
            node = waiting.pop(0)
            if isinstance(node, int):
                continue
            bounds.append((begin, begin + len(node[1])))
            begin += len(node[1])
            waiting.extend(node[1])
        return bounds

    def _paths(self, device: torch.device) -> Tensor:
        """[N, branches] float32, 1 where a branch is on the path to an expert."""
        return torch.tensor(self._path_rows(), device=device)

    @functools.cache  # noqa: B019 (a rule is small, and there are few)
    def _path_rows(self) -> list[list[float]]:
        walk = self._walk()
        experts = 1 + max(leaf for _, below, _ in walk for leaf in below)
        return [[float(expert in below) for _, below, _ in walk] for expert in range(experts)]


def _is_first_largest(scores: Tensor) -> Tensor:
    """[..., n] bool, True at the first largest of each row."""
    best = torch.zeros_like(scores, dtype=torch.bool)
    return best.scatter(-1, scores.argmax(dim=-1, keepdim=True), True)


def _leaves(node: Tree) -> Iterator[int]:
    if isinstance(node, int):
        yield node
    else:
        for child in node[1]:
            yield from _leaves(child)


def _frozen(node: Any) -> Tree:
    """Lists, as in JSON, to tuples; raises RouterError for anything else."""
    if isinstance(node, int) and not isinstance(node, bool):
        return node
    if isinstance(node, list | tuple) and len(node) == 2 and isinstance(node[0], str):
        children = node[1]
        if isinstance(children, list | tuple) and children:
            return node[0], tuple(_frozen(child) for child in children)
    raise RouterError(
        f"Hierarchical.tree: {reprlib.repr(node)} is neither an expert's id nor [name, [children]]"
    )
