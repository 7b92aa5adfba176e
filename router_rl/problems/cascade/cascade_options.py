"""The options of the cascade problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count

from ..feature_config import FeatureConfig

__all__ = ["CascadeOptions"]


@dataclass(frozen=True, kw_only=True)
class CascadeOptions(CheckedOptions):
    """The options of `CascadeProblem`.

    Attributes:
        max_experts: maximum number of experts asked for a query.
        use_features: whether policies observe the query's features; if not, they observe only the experts'
            confidences and agreement.
        agreement_beliefs: whether the agreement of answers moves the belief that an answer is right, for all
            methods. By default it does where the table has answers and no confidences but those of verifiers.
        features: features to compute from prompts, if the table has none of its own.
    """

    prefix: ClassVar[str] = "problem"

    max_experts: Count = 3
    use_features: bool = True
    agreement_beliefs: bool | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
