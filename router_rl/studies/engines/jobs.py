"""How many trials run at a time, and where."""

from __future__ import annotations

from dataclasses import dataclass

from experts import InputError
from experts.io.errors import unknown_name
from experts.io.ray_cluster import require_ray

from .registry import ENGINES

__all__ = ["Jobs"]


@dataclass(frozen=True)
class Jobs:
    """How many trials run at a time, and the engine that runs them.

    Attributes:
        count: number of trials at a time.
        engine: local (processes of this machine) or ray (a Ray cluster; `pip install 'router-rl[scale]'`).

    Raises:
        InputError: the number is below 1, the engine is unknown, or Ray is not installed.

    >>> Jobs(8)
    Jobs(count=8, engine='local')
    """

    count: int
    engine: str = "local"

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError("jobs", self.count, "is below 1", "use 1 or more")
        if self.engine not in ENGINES:
            raise unknown_name("engine", self.engine, ENGINES)
        if self.engine == "ray":
            require_ray("engine", self.engine, "use --engine local")

    @classmethod
    def of(cls, jobs: Jobs | int) -> Jobs:
        """Return jobs as they are, or a number of them on this machine."""
        return jobs if isinstance(jobs, Jobs) else cls(jobs)
