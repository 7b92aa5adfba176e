"""Options of the routing problem: the form of the router, and its training data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, Width

from ..feature_config import FeatureConfig
from ..log_config import LogConfig

__all__ = ["RoutingOptions", "ScorerConfig"]


@dataclass(frozen=True, kw_only=True)
class ScorerConfig(CheckedOptions):
    """Shape of the scorer of trained methods.

    Attributes:
        kind: `linear` (can be folded into a stock gate) or `mlp`.
        hidden: widths of the MLP's hidden layers.
        bias: whether a linear scorer has a bias. Gates of llama.cpp and of most stock models have none: false
            trains without bias and shift. Methods that need one, such as ridge and remoe_gate, keep theirs.
    """

    prefix: ClassVar[str] = "problem.scorer"

    kind: Literal["linear", "mlp"] = "mlp"
    hidden: tuple[Width, ...] = (64,)
    bias: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bias and self.kind != "linear":
            raise InputError(
                "problem.scorer.bias", False, "an MLP has biases", "use problem.scorer.kind linear"
            )

    def __str__(self) -> str:
        return "linear" if self.kind == "linear" else f"mlp({', '.join(map(str, self.hidden))})"


@dataclass(frozen=True, kw_only=True)
class RoutingOptions(CheckedOptions):
    """Options of `RoutingProblem`.

    Attributes:
        select: selection rule; `list` shows all names.
        k: experts per decision (topk), or the maximum (adaptive_k).
        tree: tree for hierarchical selection, such as {"general": ["a"], "coding": ["b", "c"]}; null clusters
            the experts by their training outcomes.
        scorer: shape of the scorer of trained methods.
        observe_load: whether stateful learners observe the window's load; null: if load has a weight.
        feedback: full, or bandit: only one expert's outcome is known per training and validation query.
        log: how that expert is selected, under bandit feedback.
        features: features computed from prompts, if the table has no features.
        device: device of the training, such as cpu or cuda.
        compile: compile the scorer with torch.compile in training; faster for wide scorers.
    """

    prefix: ClassVar[str] = "problem"

    select: str = "hard"
    k: Count = 2
    tree: dict[str, Any] | None = None
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    observe_load: bool | None = None
    feedback: Literal["full", "bandit"] = "full"
    log: LogConfig = field(default_factory=LogConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    device: str = "cpu"
    compile: bool = False

    def check_used(self) -> None:
        """Check that no option is set that the selection rule or the feedback does not use.

        Raises:
            InputError: one is; names it.
        """
        rule, feedback = f"select {self.select}", f"{self.feedback} feedback"
        for name, other, used, fix in (
            ("k", rule, self.select in ("topk", "adaptive_k"), "use topk or adaptive_k"),
            ("tree", rule, self.select == "hierarchical", "use hierarchical"),
            ("log", feedback, self.feedback == "bandit", "use bandit feedback"),
        ):
            value = getattr(self, name)
            if not used and value != getattr(RoutingOptions(), name):
                raise InputError(
                    f"problem.{name}", value, f"{other} does not use it", f"leave it out, or {fix}"
                )
