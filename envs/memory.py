"""Load times of expert weights (disk to host memory to GPU memory), and the choice of experts to evict.

A profile is a YAML file of two bandwidths and two latencies. `benchmarks/memory_profile.py` measures the step
from disk to host memory on the machine that it runs on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import NonNegative, Positive
from experts.io.yaml_file import read_yaml

__all__ = ["MemoryProfile", "evicted"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryProfile(CheckedOptions):
    """Bandwidth and latency of the two steps to GPU memory.

    Attributes:
        gpu_bandwidth: bytes a second from host to GPU memory; the default is a typical PCIe 4.0 x16.
        gpu_latency: seconds before the first byte.
        disk_bandwidth: bytes a second from disk to host; the default is a fast NVMe drive.
        disk_latency: seconds before the first byte.

    Raises:
        InputError: a value is out of range.
    """

    prefix: ClassVar[str] = "profile"

    gpu_bandwidth: Positive = 25e9
    gpu_latency: NonNegative = 1e-4
    disk_bandwidth: Positive = 3e9
    disk_latency: NonNegative = 1e-3

    @classmethod
    def read(cls, path: Path | str) -> MemoryProfile:
        """Read a profile from a YAML file.

        Raises:
            InputError: the file cannot be read, or has an unknown key or a value that is not a number.
        """
        known = [field.name for field in fields(cls)]
        content = read_yaml("profile", path)
        if not isinstance(content, dict):
            fix = f"write numbers for some of {', '.join(known)}"
            raise InputError("profile", str(path), "is not a mapping", fix)
        for name in content:
            if name not in known:
                fix = f"use some of {', '.join(known)}"
                raise InputError("profile", name, f"{path} has an unknown key", fix)
        return cls(**{name: _number(value) for name, value in content.items()})

    def seconds(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Seconds from host to GPU memory and from disk to host memory, for experts of `size` bytes."""
        return (
            self.gpu_latency + size / self.gpu_bandwidth,
            self.disk_latency + size / self.disk_bandwidth,
        )


def _number(value: Any) -> Any:
    """Return the number of a text such as `12e9`, which is no number in YAML; other values as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


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
