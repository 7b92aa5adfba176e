"""The options of the caching problem."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Fraction, NonNegative, Positive, Range, Share, Size

from ..feature_config import FeatureConfig

__all__ = ["CachingOptions"]


@dataclass(frozen=True, kw_only=True)
class CachingOptions(CheckedOptions):
    """The options of `CachingProblem`.

    Attributes:
        resident_shares: sizes of GPU memory, as fractions of the bytes of all experts; one case each.
        wait_weight: utility per second that a request waits for weights, at least 0.
        host_share: size of host memory, as a fraction of the bytes of all experts.
        expert_bytes: bytes of each expert: one number, or one for each expert.
        gap: seconds between two arrivals.
        persistence: probability that a request keeps the topic of the one before.
        window: number of requests of an episode.
        episodes: number of episodes that a policy is measured on; a confidence interval needs 2.
        profile: YAML file of the bandwidths and latencies of the memories; null: PCIe 4.0 x16 and a fast NVMe
            drive.
        features: features to compute from prompts, if the table has none of its own.
    """

    prefix: ClassVar[str] = "problem"

    resident_shares: tuple[Share, ...] = (0.3, 0.5, 0.75, 1.0)
    wait_weight: NonNegative = 0.5
    host_share: Share = 0.6
    expert_bytes: Positive | tuple[Positive, ...] = 1.4e9
    gap: NonNegative = 0.1
    persistence: Fraction = 0.9
    window: Size = 256
    episodes: Annotated[int, Range(2, 10_000_000)] = 48
    profile: Path | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = self.resident_shares
        if not shares or len(set(shares)) < len(shares):
            raise InputError(
                "problem.resident_shares", list(shares), "are empty or not distinct", "use [0.3,0.5,0.75,1.0]"
            )

    @property
    def sizes(self) -> tuple[float, ...]:
        """Bytes: one number for all experts, or N."""
        given = self.expert_bytes
        return tuple(given) if isinstance(given, tuple | list) else (float(given),)
