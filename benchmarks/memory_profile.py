"""Measure the step from disk to host memory, and write the profile that `RouterRL/Caching-v0` reads.

    python benchmarks/memory_profile.py --out profile.yaml

Writes a file of random bytes, asks the system to drop it from its page cache, and times reading it. The step
from host to GPU memory is measured where there is a GPU; else the default stands (PCIe 4.0 x16).
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import jsonargparse
import torch
import yaml

from envs import MemoryProfile
from experts.io.atomic import replacing


def main(
    out: Path = Path("profile.yaml"), folder: Path | None = None, mib: int = 256, repeats: int = 5
) -> None:
    """Measure and write.

    Args:
        out: the YAML file.
        folder: on the disk to measure; null: that of `out`.
        mib: size of the file read.
        repeats: of every timing; the median is kept.
    """
    place = out.parent if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    large, small = (median(_read(place, size, repeats)) for size in (mib * 2**20, 4096))
    found = MemoryProfile(disk_bandwidth=mib * 2**20 / max(large - small, 1e-9), disk_latency=small)
    values = {"disk_bandwidth": found.disk_bandwidth, "disk_latency": found.disk_latency}
    if torch.cuda.is_available():
        large, small = (median(_copy(size, repeats)) for size in (mib * 2**20, 4096))
        values |= {"gpu_bandwidth": mib * 2**20 / max(large - small, 1e-9), "gpu_latency": small}
    with replacing(out) as temporary:
        temporary.write_text(yaml.safe_dump(values), encoding="utf-8")
    print(out.read_text(encoding="utf-8"), end="")


def _read(folder: Path, size: int, repeats: int) -> list[float]:
    """Seconds to read a file of so many bytes that is not in the page cache."""
    seconds: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(os.urandom(size))
        file.flush()
        os.fsync(file.fileno())
        buffer = bytearray(size)
        for _ in range(repeats):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            began = time.perf_counter()
            with open(file.name, "rb", buffering=0) as source:
                view, done = memoryview(buffer), 0
                while done < size:
                    done += source.readinto(view[done:]) or 0
            seconds.append(time.perf_counter() - began)
    return seconds


def _copy(size: int, repeats: int) -> list[float]:
    """Seconds to copy so many bytes of pinned host memory to the GPU."""
    source, seconds = torch.empty(size, dtype=torch.uint8, pin_memory=True), []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        source.to("cuda", non_blocking=True)
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
