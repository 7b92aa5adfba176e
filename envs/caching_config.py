"""The options of the caching environment."""

from __future__ import annotations

from dataclasses import dataclass, field

from experts import InputError

from .memory import MemoryProfile

__all__ = ["CachingConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CachingConfig:
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

    compute_weight: float = 0.1
    wait_weight: float = 0.5
    gpu_share: float = 0.5
    host_share: float = 0.8
    expert_bytes: tuple[float, ...] = (1.4e9,)
    profile: MemoryProfile = field(default_factory=MemoryProfile)
    gap: float = 0.1
    persistence: float = 0.9
    window: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "expert_bytes", tuple(self.expert_bytes))
        for name in ("compute_weight", "wait_weight", "gap"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(name, getattr(self, name), "negative or infinite", "use at least 0")
        for name in ("gpu_share", "host_share"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise InputError(name, getattr(self, name), "not a share", "use above 0 and at most 1")
        if not self.expert_bytes or not all(0.0 < size < float("inf") for size in self.expert_bytes):
            raise InputError("expert_bytes", list(self.expert_bytes), "not sizes", "use bytes above 0")
        if not 0.0 <= self.persistence <= 1.0:
            raise InputError("persistence", self.persistence, "not a probability", "use 0 to 1")
        if self.window < 1:
            raise InputError("window", self.window, "not positive", "use 1 or more")
