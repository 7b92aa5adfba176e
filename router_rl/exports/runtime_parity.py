"""The comparison of a model in its own runtime with what the trained routers decide."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RuntimeParity"]


@dataclass(frozen=True, kw_only=True)
class RuntimeParity:
    """What a model computes in its runtime with exported routers, compared with the trained ones.

    Attributes:
        name: of the runtime.
        version: of the runtime.
        model: name of the file or folder.
        prompts: number of prompts.
        tokens: greedy tokens of all prompts; 0 where the runtime generates none.
        tokens_equal: tokens that are equal.
        decisions: decisions of all tokens and layers.
        decisions_equal: decisions with the same set of experts.
        weights_max_error: largest absolute difference of a weight, where the experts are the same; None where
            the runtime does not show its weights.
        logits_max_error: largest absolute difference of the model's logits or log-probabilities, relative to
            the largest; None where the runtime shows none.
        tolerance: allowed for the errors.
    """

    name: str
    version: str
    model: str
    prompts: int
    tokens: int
    tokens_equal: int
    decisions: int
    decisions_equal: int
    weights_max_error: float | None
    logits_max_error: float | None
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether all tokens and experts are equal and the errors are within the tolerance."""
        equal = (self.tokens, self.decisions) == (self.tokens_equal, self.decisions_equal)
        return equal and max(self.weights_max_error or 0.0, self.logits_max_error or 0.0) <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """As written to `parity.json`."""
        return {**asdict(self), "passed": self.passed}
