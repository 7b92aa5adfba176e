"""The rule of a gate and the records it returns, shared by every implementation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from ..router_error import RouterError

__all__ = ["ABSENT", "FALLBACK_LOGIT", "Dispatch", "GateRule", "Routed"]

FALLBACK_LOGIT = 1e4  # of the fallback expert in a row that is not finite; the others have its negative
ABSENT = 1e3  # subtracted from the merit of an expert whose score is exactly 0, so that it ranks last


class Dispatch(NamedTuple):
    """The T * k slots in the order of their experts; slot `t * k + j` is row t's j-th expert.

    Attributes:
        counts: [E] number of slots of each expert.
        order: [T * k] slot numbers, sorted by expert, then by slot.
        places: [T, k] position of each slot in `order`, its inverse permutation.
    """

    counts: Tensor
    order: Tensor
    places: Tensor


class Routed(NamedTuple):
    """The routing of T rows.

    Attributes:
        weights: [T, k] float32, best expert first; 0 for an expert that is not alive.
        experts: [T, k] int64 or int32, distinct within a row.
        logits: [T, E] float32, not masked by `alive`; in a row that was not finite, the logits of the
            fallback. May be empty where they are not requested.
        fallback: [T] bool, True where a row was not finite; its sum counts them.
        dispatch: the slots by expert, where requested.
    """

    weights: Tensor
    experts: Tensor
    logits: Tensor
    fallback: Tensor
    dispatch: Dispatch | None = None


@dataclass(frozen=True, kw_only=True)
class GateRule:
    """How a gate scores, chooses and weights experts.

    An expert's score is the softmax or the sigmoid of its logit. The k with the largest score + correction
    are chosen, within the best groups where experts form groups; ties go to the lowest id. The weights are
    the scores of the chosen, renormalised if `renormalise`, times `scale`. A row with a logit that is not
    finite is scored as if the fallback's logit were 1e4 and every other -1e4.

    Attributes:
        k: experts per row.
        score: `softmax` over the experts alive, or `sigmoid`.
        groups: the experts form this many groups of equal size, by increasing id.
        kept: groups whose experts may be chosen.
        judged_by: a group is as good as the sum of this many of its best experts.
        renormalise: weights are divided by their sum.
        scale: of the weights (`routed_scaling_factor`).
        fallback: the expert of a row that is not finite.

    Source: softmax, Mixtral (https://arxiv.org/abs/2401.04088), section 2.1; groups, DeepSeek-V2
        (https://arxiv.org/abs/2405.04434), section 2.2.2; sigmoid and correction, DeepSeek-V3
        (https://arxiv.org/abs/2412.19437), eq. 13-16.

    Raises:
        RouterError: a field is out of range.
    """

    k: int
    score: Literal["softmax", "sigmoid"] = "softmax"
    groups: int = 1
    kept: int = 1
    judged_by: int = 2
    renormalise: bool = True
    scale: float = 1.0
    fallback: int = 0

    def __post_init__(self) -> None:
        for field in ("k", "groups", "kept", "judged_by"):
            if getattr(self, field) < 1:
                raise RouterError(f"GateRule.{field}={getattr(self, field)} is not positive; use 1 or more")
        if self.score not in ("softmax", "sigmoid"):
            raise RouterError(f"GateRule.score={self.score!r} is unknown; use softmax or sigmoid")
        if self.kept > self.groups:
            raise RouterError(f"GateRule.kept={self.kept} exceeds groups={self.groups}; use fewer")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise RouterError(f"GateRule.scale={self.scale} is not a positive number")

    def check(self, experts: int) -> None:
        """Raise RouterError unless the rule can choose among this many experts."""
        if experts % self.groups:
            raise RouterError(f"GateRule.groups={self.groups} does not divide {experts} experts")
        reach = experts // self.groups * self.kept
        if self.k > reach:
            raise RouterError(
                f"GateRule.k={self.k} exceeds the {reach} experts to choose from; use 1 to {reach}"
            )
        if self.groups > 1 and self.judged_by > experts // self.groups:
            raise RouterError(
                f"GateRule.judged_by={self.judged_by} exceeds the {experts // self.groups} experts of a group"
            )
        if self.fallback not in range(experts):
            raise RouterError(f"GateRule.fallback={self.fallback} is not an expert; use 0 to {experts - 1}")

    def by_logit(self, corrected: bool) -> bool:
        """Whether the logits rank experts as their scores do, without ties by rounding."""
        return self.score == "softmax" and not corrected
