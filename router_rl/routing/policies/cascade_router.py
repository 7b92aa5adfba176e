"""A cascade policy in the form of a router, whose second input is what was answered so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..router import Router, StateInput
from ..scorers.scorer import Scorer
from ..selection import Hard
from .cascade_policy import CascadePolicy, CascadeView

__all__ = ["cascade_policy_of", "cascade_router", "cascade_state", "reads_confidences", "reads_features"]

_UNSTATED = 0.5  # the confidence of an answer, for policies trained on tables without confidences


def cascade_router(policy: CascadePolicy) -> Router:
    """Return a router whose choice is the expert that the policy asks next.

    Its logits are the policy's probabilities of asking, and 1 more for the expert that it asks; where the
    policy returns an answer, there is no such expert, and `CascadePolicy.decide` says whose answer.

    Args:
        policy: reads observations [T, O], which are the router's features and state.
    """
    names, count = policy.experts, len(policy.experts)
    state = (
        StateInput("asked", count, "1 where an expert was asked, else 0", names),
        StateInput("confidence", count, "confidence of each answer, 0 where there is none", names),
        StateInput("askable", count, "1 where an expert can be asked now, else 0", names),
        StateInput("agreement", count * (count - 1) // 2, "1 where two answers are equal, -1 if not"),
        StateInput("compute_weight", 1, "utility per unit of compute"),
    )
    return Router(_CascadeScorer(policy), Hard(), names, state=state, text=policy.text).eval()


def cascade_policy_of(router: Router) -> CascadePolicy | None:
    """Return the policy of a router that `cascade_router` returned; None for any other router."""
    return router.scorer.policy if isinstance(router.scorer, _CascadeScorer) else None


def cascade_state(
    policy: CascadePolicy, answers: Mapping[str, str | float | None], compute_weight: float, may_ask: Tensor
) -> Tensor:
    """Return the second input for the next step of one query, [1, S] float32.

    Args:
        policy: of a table without confidences, but for those of verifiers.
        answers: the answers so far, by expert: its text, where equal texts agree and None is equal to no
            other, or the verdict of a verifier in [0, 1], which has the text of the answer that it verifies.
        compute_weight: utility per unit of compute.
        may_ask: [N] bool, False for an expert that is down.
    """
    count = len(policy.experts)
    confidence = torch.full((1, count), float("nan"))
    numbers = -1 - torch.arange(count).unsqueeze(0)  # an answer that cannot be read has a number of its own
    texts = sorted({text for text in answers.values() if isinstance(text, str)})
    for place, name in enumerate(policy.experts):
        if name in answers:
            verdict, text = answers[name], _text(policy, answers, place)
            confidence[0, place] = verdict if isinstance(verdict, float) else _UNSTATED
            numbers[0, place] = numbers[0, place] if text is None else texts.index(text)
    observation = policy.observe(
        torch.zeros(1, policy.features),
        confidence,
        numbers,
        compute_weight=compute_weight,
        may_ask=may_ask.unsqueeze(0),
    )
    return observation[:, policy.features :]


def reads_confidences(policy: CascadePolicy) -> tuple[str, ...]:
    """Return the experts whose confidences move a policy's beliefs."""
    read: list[bool] = (policy.beliefs.calibration[:, 0] != 0.0).tolist()
    return tuple(name for name, reads in zip(policy.experts, read, strict=True) if reads)


def reads_features(policy: CascadePolicy) -> bool:
    """Return whether a policy reads the query's features; it does not if all were constant in training."""
    return bool(policy.beliefs.scale.any())


def _text(policy: CascadePolicy, answers: Mapping[str, str | float | None], place: int) -> str | None:
    """Return the text of an answer, or of the answer that a verifier was asked about."""
    answer = answers.get(policy.experts[place])
    while isinstance(answer, float) and policy.after is not None and place >= 0:
        place = policy.after[place]
        answer = answers.get(policy.experts[place]) if place >= 0 else None
    return answer if isinstance(answer, str) else None


class _CascadeScorer(Scorer):
    """The chance of asking each expert."""

    kind = "cascade"

    def __init__(self, policy: CascadePolicy) -> None:
        super().__init__(policy.observation_size, len(policy.experts))
        self.policy = policy

    def forward(self, x: Tensor) -> Tensor:
        """Scores [T, N] of observations [T, D + 3 N + N (N - 1) / 2 + 1]."""
        chance = self.policy(CascadeView.of(x, self.experts))[:, : self.experts]
        action, _ = self.policy.actions(x)
        return chance + (action.unsqueeze(-1) == torch.arange(self.experts))

    def spec(self) -> dict[str, Any]:
        """Return the policy's description."""
        return {"kind": self.kind, **self.policy.spec()}
