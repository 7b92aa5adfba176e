"""A decision of `serve`: the expert for a request, and what the choice was based on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .adapted_router import AdaptedRouter

__all__ = ["Decision"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """The choice of an expert for a request, and what it was based on.

    Attributes:
        expert: name of the expert.
        router: digest of the router (the canary's, if it decided), and `+linucb` or `+thompson` if it learns.
        propensities: probability of each expert, by name; sums to 1.
        scores: logit of each expert, by name.
        expected_usd: expected cost of each expert, by name, US dollars.
        excluded: reason for each expert that could not be chosen, by name.
        features: [D] float32, the live router's features of the prompt.
        pipeline: digest of the text pipeline that computed the features.
        shadow: digest of the shadow router and its choice; None without one.
        predicted: seconds that each queue router predicts for the chosen expert's answer.
        cascades: whether a cascade policy decided, which decides again after the answer.
        returns: the expert whose answer the cascade policy returns; None: it asks `expert`.
    """

    expert: str
    router: str
    propensities: dict[str, float]
    scores: dict[str, float]
    expected_usd: dict[str, float]
    excluded: dict[str, str]
    features: np.ndarray
    pipeline: str
    shadow: tuple[str, str] | None
    predicted: tuple[tuple[AdaptedRouter, float], ...] = ()
    cascades: bool = False
    returns: str | None = None

    @property
    def propensity(self) -> float:
        """Probability of the chosen expert."""
        return self.propensities[self.expert]
