"""The result of comparing a model in its own runtime with the decisions of the trained routers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["RuntimeParity"]


@dataclass(frozen=True, kw_only=True)
class RuntimeParity:
    """A model with exported routers in its runtime, compared with the trained routers.

    Attributes:
        name: name of the runtime.
        version: version of the runtime.
        model: name of the model's file or folder.
        prompts: number of prompts.
        tokens: number of greedy tokens of all prompts; 0 if the runtime generates none.
        tokens_equal: number of tokens that are equal.
        decisions: number of routing decisions, over all tokens and layers.
        decisions_equal: number of decisions with the same set of experts.
        weights_max_error: largest absolute difference of a weight, where the experts are the same; None if
            the runtime does not return weights.
        logits_max_error: largest absolute difference of the model's logits or log-probabilities, relative to
            the largest; None if the runtime returns none.
        tolerance: maximum of both errors.
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
        """Whether all tokens and experts are equal and the errors are within the tolerance; NaN is not."""
        equal = (self.tokens, self.decisions) == (self.tokens_equal, self.decisions_equal)
        errors = (self.weights_max_error, self.logits_max_error)
        return equal and all(error is None or error <= self.tolerance for error in errors)

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `parity.json`."""
        return {**asdict(self), "passed": self.passed}
