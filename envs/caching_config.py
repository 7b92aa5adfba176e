"""The options of the caching environment."""

from __future__ import annotations

from dataclasses import dataclass, field

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Fraction, NonNegative, Positive, Share, Size

from .memory import MemoryProfile

__all__ = ["CachingConfig"]


@dataclass(frozen=True, kw_only=True)
class CachingConfig(CheckedOptions):
    """The memories, the requests and the weights of the reward.

    Attributes:
        compute_weight: utility per unit of compute, at least 0.
        wait_weight: utility per second that a request waits for weights, at least 0.
        gpu_share: size of GPU memory, as a fraction of the bytes of all experts.
        host_share: size of host memory, as a fraction of the bytes of all experts.
        expert_bytes: bytes of each expert: one number, or N.
        profile: bandwidths and latencies of the memories.
        gap: seconds between two requests.
        persistence: probability that a request keeps the topic of the one before; otherwise its topic is
            drawn uniformly.
        window: W, requests of an episode.

    Raises:
        InputError: a value is out of range.
    """

    compute_weight: NonNegative = 0.1
    wait_weight: NonNegative = 0.5
    gpu_share: Share = 0.5
    host_share: Share = 0.8
    expert_bytes: tuple[Positive, ...] = (1.4e9,)
    profile: MemoryProfile = field(default_factory=MemoryProfile)
    gap: NonNegative = 0.1
    persistence: Fraction = 0.9
    window: Size = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.expert_bytes:
            raise InputError("expert_bytes", [], "are empty", "give one number, or one for each expert")
