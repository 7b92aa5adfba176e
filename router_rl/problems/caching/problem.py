"""The caching process on one table at several sizes of GPU memory, and what is believed of its queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from envs.caching import CachingConfig, CachingTable
from envs.memory import MemoryProfile
from envs.outcomes import Outcomes, compute_scale
from experts import open_table

from ...routing.policies.caching_policy import CachingPolicy
from ..cascade.beliefs import FittedBeliefs, fit_beliefs
from ..problem import Case

__all__ = ["DEFAULTS", "CachingProblem", "cases_of", "prepare"]

DEFAULTS: Mapping[str, Any] = {
    "resident": (0.3, 0.5, 0.75, 1.0),
    "compute_weight": 0.1,
    "wait_weight": 0.5,
    "host_share": 0.6,
    "expert_bytes": 1.4e9,
    "gap": 0.1,
    "persistence": 0.9,
    "window": 256,
    "episodes": 48,
    "profile": None,
    "seed": 0,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class CachingProblem:
    """What every method is given.

    Attributes:
        names: of the experts.
        configs: by share of the bytes that is resident.
        rows: by share and split, as the environment has them.
        fitted: beliefs from the training rows.
        foreseen: beliefs in each expert on the next requests, from the topics of the training rows.
        chance, later: by split, [T, N] of being right, on the request and on the next ones; of training rows
            by networks that have not seen them.
        episodes: played for a measurement.
        rules: fitted methods that know no seed, by rule and share, made once.
    """

    names: tuple[str, ...]
    configs: Mapping[float, CachingConfig]
    rows: Mapping[tuple[float, str], CachingTable]
    fitted: FittedBeliefs
    foreseen: FittedBeliefs
    chance: Mapping[str, Tensor]
    later: Mapping[str, Tensor]
    episodes: int
    rules: dict[tuple[Any, float], Any] = field(default_factory=dict)

    def policy(self, share: float) -> CachingPolicy:
        """A policy without weights."""
        config, table = self.configs[share], self.rows[share, "train"]
        price = config.compute_weight * table.outcomes.compute.mean(dim=0)
        reload = torch.stack(config.profile.seconds(table.size))
        features = table.outcomes.features.shape[1]
        return CachingPolicy(
            self.names,
            features,
            price.tolist(),
            reload.tolist(),
            self.fitted.beliefs,
            self.foreseen.beliefs,
        ).requires_grad_(False)


def prepare(table: str | None, options: Mapping[str, Any]) -> CachingProblem:
    """Read the table and fit the beliefs.

    Args:
        table: a Parquet path or an embedded source's name; digits if None.
        options: fields of `CachingConfig`; `resident`, shares of the experts' bytes that fit in GPU memory;
            `profile`, the YAML of the bandwidths; `episodes` of a measurement; `seed` of an embedded source.

    Raises:
        InputError: an option is out of range, or the table does not serve.
    """
    given = dict(options)
    whole = open_table(table or "digits", seed=int(given.pop("seed")))
    shares = tuple(float(share) for share in given.pop("resident"))
    episodes, path, size = int(given.pop("episodes")), given.pop("profile"), given.pop("expert_bytes")
    profile = MemoryProfile() if path is None else MemoryProfile.read(path)
    sizes = tuple(size) if isinstance(size, list | tuple) else (float(size),)
    configs = {
        share: CachingConfig(gpu_share=share, profile=profile, expert_bytes=sizes, **given)
        for share in shares
    }
    parts = {split: whole.part(split) for split in ("train", "validation", "test")}
    scale = compute_scale(parts["train"])
    rows = {
        (share, split): CachingTable.of(part, scale, config)
        for share, config in configs.items()
        for split, part in parts.items()
    }
    known = {split: rows[shares[0], split].outcomes for split in parts}
    train = known["train"]
    # Nobody is asked twice, so confidences play no part.
    even = torch.full_like(train.quality, 0.5)
    fitted = fit_beliefs(train.features, even, train.quality, seed=0)
    foreseen = fit_beliefs(train.features, even, _of_topic(rows[shares[0], "train"]), seed=0)
    return CachingProblem(
        names=whole.experts,
        configs=configs,
        rows=rows,
        fitted=fitted,
        foreseen=foreseen,
        chance=_by_split(fitted, known),
        later=_by_split(foreseen, known),
        episodes=episodes,
    )


def _by_split(fitted: FittedBeliefs, known: Mapping[str, Outcomes]) -> dict[str, Tensor]:
    """The chances [T, N] of each split's rows."""
    chance = {split: fitted.beliefs.prior(rows.features).sigmoid() for split, rows in known.items()}
    return {**chance, "train": fitted.prior.sigmoid()}


def _of_topic(table: CachingTable) -> Tensor:
    """The mean quality [T, N] of each row's topic: what a request that stays with it will bring."""
    mean = torch.stack(
        [part.mean(dim=0) for part in table.outcomes.quality[table.rows].split(table.count.tolist())]
    )
    each = torch.empty_like(table.outcomes.quality)
    each[table.rows] = mean.repeat_interleave(table.count, dim=0)
    return each


def cases_of(problem: CachingProblem) -> list[Case]:
    """A case for each size of GPU memory; the one of half the experts' bytes is marked."""
    cases: list[Case] = []
    for share in problem.configs:
        table = problem.rows[share, "train"]
        half = ", half" if share == 0.5 else ""
        gigabytes = table.gpu_bytes / 1e9
        label = f"{share:.0%} of the experts' bytes resident{half}"
        cases.append(Case(label=label, values={"resident_share": share, "resident_gb": round(gigabytes, 3)}))
    return cases
