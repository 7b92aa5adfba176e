"""Options of the routing problem: the form of the router, and its training data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from experts import InputError
from experts.io.errors import unknown_name

from ..feature_config import FeatureConfig
from ..log_config import LogConfig

__all__ = ["RoutingOptions", "ScorerConfig"]


@dataclass(frozen=True, kw_only=True)
class ScorerConfig:
    """Shape of the scorer of trained methods.

    Attributes:
        kind: `linear` (can be folded into a stock gate) or `mlp`.
        hidden: widths of the MLP's hidden layers.
    """

    kind: Literal["linear", "mlp"] = "mlp"
    hidden: tuple[int, ...] = (64,)

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "mlp"):
            raise InputError("scorer.kind", self.kind, "unknown", "use linear or mlp")
        if any(width < 1 for width in self.hidden):
            raise InputError("scorer.hidden", list(self.hidden), "a width is not positive", "use 1 or more")

    def __str__(self) -> str:
        return "linear" if self.kind == "linear" else f"mlp({', '.join(map(str, self.hidden))})"


@dataclass(frozen=True, kw_only=True)
class RoutingOptions:
    """Options of `RoutingProblem`.

    Attributes:
        select: selection rule; `list` shows all names.
        k: experts per decision (topk), or the maximum (adaptive_k).
        tree: tree for hierarchical selection, such as {"general": ["a"], "coding": ["b", "c"]}; null clusters
            the experts by their training outcomes.
        scorer: shape of the scorer of trained methods.
        observe_load: whether stateful learners observe the window's load; null: if load is charged.
        feedback: full, or bandit: only one expert's outcome is known per training and validation query.
        log: how that expert is selected, under bandit feedback.
        features: features computed from prompts, if the table has no features.
        device: device of the training, such as cpu or cuda.
        compile: compile the scorer with torch.compile in training; faster for wide scorers.
    """

    select: str = "hard"
    k: int = 2
    tree: dict[str, Any] | None = None
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    observe_load: bool | None = None
    feedback: Literal["full", "bandit"] = "full"
    log: LogConfig = field(default_factory=LogConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    device: str = "cpu"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.feedback not in ("full", "bandit"):
            raise unknown_name("problem.feedback", self.feedback, ("full", "bandit"))
