"""Load times of expert weights (disk to host memory to GPU memory), and the choice of experts to evict.

A profile is a YAML file of two bandwidths and two latencies. `benchmarks/memory_profile.py` measures the step
from disk to host memory on the machine that it runs on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from experts import InputError

__all__ = ["MemoryProfile", "evicted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryProfile:
    """Bandwidth and latency of the two steps to GPU memory.

    Attributes:
        gpu_bandwidth: bytes a second from host to GPU memory; the default is a typical PCIe 4.0 x16.
        gpu_latency: seconds before the first byte.
        disk_bandwidth: bytes a second from disk to host; the default is a fast NVMe drive.
        disk_latency: seconds before the first byte.

    Raises:
        InputError: a value is out of range.
    """

    gpu_bandwidth: float = 25e9
    gpu_latency: float = 1e-4
    disk_bandwidth: float = 3e9
    disk_latency: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("gpu_bandwidth", "disk_bandwidth"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InputError(
                    name, getattr(self, name), "is not a bandwidth", "use bytes a second above 0"
                )
        for name in ("gpu_latency", "disk_latency"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(name, getattr(self, name), "is not a latency", "use seconds of at least 0")

    @classmethod
    def read(cls, path: Path | str) -> MemoryProfile:
        """Read a profile from a YAML file.

        Raises:
            InputError: the file cannot be read, or has an unknown key or a value that is not a number.
        """
        known = [field.name for field in fields(cls)]
        try:
            content: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            values = {str(name): float(value) for name, value in content.items()}
        except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
            fix = f"write numbers for some of {', '.join(known)}"
            raise InputError("profile", str(path), f"cannot be read ({error})", fix) from error
        for name in values:
            if name not in known:
                fix = f"use some of {', '.join(known)}"
                raise InputError("profile", name, f"{path} has an unknown key", fix)
        return cls(**values)

    def seconds(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Seconds from host to GPU memory and from disk to host memory, for experts of `size` bytes."""
        return (
            self.gpu_latency + size / self.gpu_bandwidth,
            self.disk_latency + size / self.disk_bandwidth,
        )


def evicted(held: Tensor, size: Tensor, order: Tensor, need: Tensor) -> Tensor:
    """The experts to evict so that `need` bytes become free: the first in order, and no more than needed.

    Args:
        held: [B, N] bool, the experts in memory.
        size: [N] bytes.
        order: [B, N] float; the lowest are evicted first, ties go to the lowest id.
        need: [B] bytes; no expert is evicted where it is at most 0.

    Returns:
        [B, N] bool.
    """
    rank = torch.where(held, order, float("inf")).argsort(dim=-1, stable=True)
    freed = (held * size).gather(-1, rank)
    before = freed.cumsum(dim=-1) - freed
    first = (before < need.unsqueeze(-1)) & held.gather(-1, rank)
    return torch.zeros_like(held).scatter(-1, rank, first)
