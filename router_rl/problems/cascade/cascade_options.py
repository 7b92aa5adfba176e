"""The options of the cascade problem."""

from __future__ import annotations

from dataclasses import dataclass, field

from experts import InputError

from ..feature_config import FeatureConfig

__all__ = ["CascadeOptions"]


@dataclass(frozen=True, kw_only=True)
class CascadeOptions:
    """The options of `CascadeProblem`.

    Attributes:
        max_experts: maximum number of experts asked for a query.
        use_features: whether policies observe the query's features; if not, they observe only the experts'
            confidences and agreement.
        features: features to compute from prompts, if the table has none of its own.
    """

    max_experts: int = 3
    use_features: bool = True
    features: FeatureConfig = field(default_factory=FeatureConfig)

    def __post_init__(self) -> None:
        if self.max_experts < 1:
            raise InputError("problem.max_experts", self.max_experts, "is below 1", "use 1 or more")
