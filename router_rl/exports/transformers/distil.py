"""Distil routers that do not fold into linear routers, and measure the loss of quality.

Each student minimises the cross-entropy to its teacher's distribution over experts. The loss is convex in the
student's weights.

Source: Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ...routing import Hard, LinearScorer, Router, RouterError, ScoredTopK, Selection, TopK

__all__ = ["Distillation", "distil"]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Linear routers and their agreement with the teachers.

    Attributes:
        routers: one per layer; they fold into stock gates.
        agreement: fraction of held-out hidden states with the same set of chosen experts, by layer.
        overlap: mean fraction of the teacher's experts that the student also chooses, by layer.
        held_out: number of held-out hidden states per layer.
        before: `measure` of the teachers; None if it was not given.
        after: `measure` of the students; None if it was not given.
    """

    routers: tuple[Router, ...]
    agreement: tuple[float, ...]
    overlap: tuple[float, ...]
    held_out: int
    before: float | None
    after: float | None

    @property
    def lost(self) -> float | None:
        """`after - before`: the increase where `measure` is a loss; negative where a utility decreases."""
        return None if self.before is None or self.after is None else self.after - self.before

    def to_json(self) -> dict[str, Any]:
        """Return all fields except the routers."""
        return {
            "agreement": list(self.agreement),
            "overlap": list(self.overlap),
            "held_out": self.held_out,
            "before": self.before,
            "after": self.after,
            "lost": self.lost,
        }


def distil(
    routers: Sequence[Router],
    hidden: Sequence[Tensor],
    *,
    bias: bool = False,
    held_out: float = 0.25,
    measure: Callable[[Sequence[Router]], float] | None = None,
    penalty: float = 1e-4,
    steps: int = 200,
) -> Distillation:
    """Fit a linear router to each router, on hidden states of its layer.

    Args:
        routers: one per layer; any scorer that reads only features; `hard`, `topk` or `scored_topk`
            selection.
        hidden: one [T, H] float per layer, T at least 4: inputs of the gate on text like that in production.
        bias: give the linear routers a bias, which most stock gates lack.
        held_out: fraction of the states to hold out for the agreement: the last ones, since neighbouring
            tokens are similar.
        measure: returns the loss or utility of a model with these routers; called with the teachers, then
            with the students.
        penalty: L2 penalty of the weights, per standardised feature, relative to the mean cross-entropy.
        steps: maximum number of L-BFGS steps.

    Returns:
        the students and their agreement on held-out states.

    Raises:
        RouterError: a router takes state, or its selection does not exist in stock gates; or the sizes do not
            fit.
    """
    if len(routers) != len(hidden):
        raise RouterError(f"there are {len(routers)} routers but hidden states of {len(hidden)} layers")
    if not 0 < held_out < 1:
        raise RouterError(f"held_out={held_out} is not a fraction; use one between 0 and 1, such as 0.25")
    students: list[Router] = []
    agreement: list[float] = []
    overlap: list[float] = []
    count = 0
    for teacher, states in zip(routers, hidden, strict=True):
        _check(teacher, states)
        cut = max(1, len(states) - max(1, round(held_out * len(states))))
        student = _fit(teacher, states[:cut].float(), bias, penalty, steps)
        same = _same(teacher, student, states[cut:].float())
        students.append(student)
        agreement.append(float((same == 1).double().mean()))
        overlap.append(float(same.mean()))
        count = len(states) - cut
    return Distillation(
        routers=tuple(students),
        agreement=tuple(agreement),
        overlap=tuple(overlap),
        held_out=count,
        before=None if measure is None else measure(routers),
        after=None if measure is None else measure(students),
    )


def _check(teacher: Router, states: Tensor) -> None:
    if teacher.state:
        raise RouterError("a router with state cannot be distilled from hidden states; train one without it")
    if not isinstance(teacher.rule, Hard | TopK | ScoredTopK):
        raise RouterError(
            f"stock gates do not support {teacher.rule.name} selection; train with hard, topk or scored_topk"
        )
    if states.ndim != 2 or states.shape[1] != teacher.features or len(states) < 4:
        raise RouterError(
            f"hidden states are {list(states.shape)}; give [T, {teacher.features}], T at least 4"
        )


def _fit(teacher: Router, states: Tensor, bias: bool, penalty: float, steps: int) -> Router:
    """The linear router with the smallest cross-entropy to the teacher's scores."""
    with torch.no_grad():
        logits = teacher.scores(states)
    # Scaling the features conditions the optimisation; a shift would need a bias.
    scale = 1 / states.square().mean(dim=0).sqrt().clamp(min=1e-6)
    inputs = (states * scale).double()
    weight = torch.zeros(len(teacher.experts), states.shape[1], dtype=torch.float64, requires_grad=True)
    offset = torch.zeros(len(teacher.experts), dtype=torch.float64, requires_grad=bias)
    parameters = [weight, offset] if bias else [weight]
    optimizer = torch.optim.LBFGS(
        parameters, max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-10
    )
    rule = teacher.rule

    def loss() -> Tensor:
        optimizer.zero_grad()
        student = F.linear(inputs, weight, offset)
        value = _cross_entropy(rule, student, logits.double()) + penalty * weight.square().sum()
        value.backward()  # pyright: ignore[reportUnknownMemberType]
        return value

    optimizer.step(cast(Any, loss))
    scorer = LinearScorer(states.shape[1], len(teacher.experts))
    with torch.no_grad():
        scorer.weight.copy_(weight * scale)
        scorer.bias.copy_(offset)
    return Router(scorer, rule, teacher.experts, fallback=teacher.fallback).eval()


def _cross_entropy(rule: Selection, logits: Tensor, teacher: Tensor) -> Tensor:
    if isinstance(rule, ScoredTopK) and rule.score == "sigmoid":  # experts are scored independently
        return F.binary_cross_entropy_with_logits(logits, teacher.sigmoid())
    return F.cross_entropy(logits, teacher.softmax(dim=-1))


@torch.no_grad()
def _same(teacher: Router, student: Router, states: Tensor) -> Tensor:
    """The fraction of the teacher's experts that the student also chooses, for each state, [T] float64."""
    students, teachers = student(states).experts, teacher(states).experts
    return (teachers.unsqueeze(-1) == students.unsqueeze(-2)).any(dim=-1).double().mean(dim=-1)
