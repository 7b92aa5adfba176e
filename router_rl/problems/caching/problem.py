"""Caching: experts do not all fit in GPU memory; which one answers a request, and which one is evicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from envs.caching import CachingConfig, CachingCore, CachingTable
from envs.memory import MemoryProfile
from envs.outcomes import Outcomes, compute_scale
from experts import InputError, OutcomeTable
from experts.table.splitting import SPLITS

from ...routing.policies.caching_policy import CachingPolicy
from ..cascade.beliefs import FittedBeliefs, fit_beliefs
from ..data_digest import digest_of, table_digest
from ..measure import Measurement
from ..objective import Objective
from ..objective_fields import only_objective
from ..options import options_as_json, with_changes
from ..problem import Case, FigureData, Policy, Problem, ProblemCard
from ..prompt_features import with_features
from ..table_facts import table_facts
from ..tuning_rows import with_tuning_rows
from .cache_episodes import run_episodes
from .caching_options import CachingOptions

__all__ = ["CachingProblem"]

_SEEDS = {"validation": 600_000, "tuning": 700_000, "test": 800_000}
_SHOWN = 96  # requests of the residency figure


class CachingProblem(Problem):
    """Which expert answers each request, and which one leaves GPU memory for it.

    Args:
        table: an outcome table with a split, and with features or prompts to make features of. Its groups
            are the topics of the requests.
        objective: its compute weight is charged in every case.
        options: the other options; the defaults if None.
        changes: fields of `CachingOptions`, in place of those of `options`.

    Attributes:
        objective: what to maximise, beside the waits.
        scale: the unit of compute, in the table's cost unit: the most expensive expert's mean cost on the
            training rows.
        profile: bandwidths and latencies of the memories.
        fitted: the probability that each expert is right, from the training rows.
        foreseen: the same for the next requests, from the topics of the training rows.
        chance, later: [T, N] float32 by split, the probability of being right on the request and on the next
            ones; out-of-fold predictions on training rows.
        text: the pipeline that makes features of prompts; None where the table has features.

    Raises:
        InputError: features cannot be made, the table lacks a split, an expert does not fit in GPU memory,
            or an option or the objective does not fit.
    """

    name: ClassVar[str] = "caching"
    environment: ClassVar[str] = "RouterRL/Caching-v0"
    about: ClassVar[str] = "choose the expert to run and the one to evict from memory"
    options_type: ClassVar[type] = CachingOptions
    observes: ClassVar[tuple[str, ...]] = ("memory",)
    always: ClassVar[tuple[str, ...]] = ("lru", "belady")

    table: OutcomeTable

    def __init__(
        self,
        table: OutcomeTable,
        objective: Objective | Sequence[Objective] | None = None,
        *,
        options: CachingOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(table)
        self.options: CachingOptions = with_changes(options or CachingOptions(), changes)
        self.objective = only_objective(CachingProblem, Objective() if objective is None else objective)
        path = self.options.profile
        self.profile = MemoryProfile() if path is None else MemoryProfile.read(path)
        featured = with_features(with_tuning_rows(table), self.options.features)
        self.table, self.text = featured.table, featured.text
        self.scale = compute_scale(self.table.part("train"))
        shares, left_out = _fitting(self.options, len(self.experts))
        if left_out:
            self.table = replace(self.table, notes=(*self.table.notes, left_out))
        self.cases = tuple(self._case(share) for share in shares)
        known = {split: self.rows(self.cases[0], split).outcomes for split in SPLITS}
        train = known["train"]
        # A request is answered once, so confidences play no part.
        even = torch.full_like(train.quality, 0.5)
        topics = topic_quality(self.rows(self.cases[0], "train"))
        self.fitted = fit_beliefs(train.features, even, train.quality, seed=0)
        self.foreseen = fit_beliefs(train.features, even, topics, seed=0)
        self.chance = _by_split(self.fitted, known)
        self.later = _by_split(self.foreseen, known)

    def config(self, case: Case) -> CachingConfig:
        """Return the environment's options in a case."""
        return self._config(case.values["resident_share"])

    def rows(self, case: Case, split: str) -> CachingTable:
        """Return the rows of a split and the memories of a case, as the environment has them."""
        return self._rows(case.values["resident_share"], split)

    def policy(self, case: Case) -> CachingPolicy:
        """Return a policy whose weights are all 0."""
        config, table = self.config(case), self.rows(case, "train")
        price = config.compute_weight * table.outcomes.compute.mean(dim=0)
        reload = torch.stack(config.profile.seconds(table.size))
        return CachingPolicy(
            self.experts,
            table.outcomes.features.shape[1],
            price.tolist(),
            reload.tolist(),
            self.fitted.beliefs,
            self.foreseen.beliefs,
        ).requires_grad_(False)

    def digest(self) -> str:
        """Return a digest of the outcomes, the features, the memories, the compute weight and the options."""
        options = options_as_json(self.options) | {"profile": asdict(self.profile)}
        return digest_of(table_digest(self.table), options, self.objective.compute_weight)

    def core(self, split: str, case: Case, *, lanes: int, seed: int) -> CachingCore:
        """Return the environment on the rows of a split; lane i has the random stream `seed + i`."""
        return CachingCore(self.rows(case, split), self.config(case), lanes, seed=seed)

    def evaluate(self, policy: Policy, split: str, case: Case | None = None, *, seed: int = 0) -> Measurement:
        """Run `options.episodes` episodes, whose requests do not depend on the policy.

        Args:
            policy: a caching policy.
            split: `validation`, `tuning` or `test`.
            case: the case; the only one if None.
            seed: not used: the policies are deterministic.
        """
        core = self.core(split, case or self.case, lanes=self.options.episodes, seed=_SEEDS[split])
        return run_episodes(policy, core).measurement

    def figures(self, policy: Policy, case: Case) -> Sequence[FigureData]:
        """Return the residency of the experts over the first requests of one test episode."""
        episode = run_episodes(policy, self.core("test", case, lanes=1, seed=_SEEDS["test"]))
        data = {
            "experts": list(self.experts),
            "resident": [held[0].int().tolist() for held in episode.resident[:_SHOWN]],
            "answered": [int(expert[0]) for expert in episode.answered[:_SHOWN]],
        }
        note = "One test episode over its requests. Faint: in GPU memory. Strong: the expert that answers."
        title = f"Residency over time, {case.label}"
        return (FigureData(form="cache_residency", title=title, note=note, data=data),)

    def describe(self) -> ProblemCard:
        """Return the description for reports and `list`."""
        return ProblemCard(
            name=self.name,
            environment=self.environment,
            about=self.about,
            source=self.table.source,
            experts=self.experts,
            options=options_as_json(self.options) | {"compute_weight": self.objective.compute_weight},
            facts=table_facts(self.table, self.scale),
            notes=self.table.notes,
            utility="quality - compute_weight x compute - wait_weight x seconds of waiting",
        )

    def _case(self, share: float) -> Case:
        """Return the case of one size of GPU memory; the label marks half of the experts' bytes."""
        half = ", half" if share == 0.5 else ""
        gigabytes = self._rows(share, "train").gpu_bytes / 1e9
        values = {"resident_share": share, "resident_gb": round(gigabytes, 3)}
        return Case(label=f"{share:.0%} of the experts' bytes resident{half}", values=values)

    def _config(self, share: float) -> CachingConfig:
        options = self.options
        return CachingConfig(
            gpu_share=share,
            profile=self.profile,
            compute_weight=self.objective.compute_weight,
            wait_weight=options.wait_weight,
            host_share=options.host_share,
            expert_bytes=options.sizes,
            gap=options.gap,
            persistence=options.persistence,
            window=options.window,
        )

    def _rows(self, share: float, split: str) -> CachingTable:
        return self.cached(
            ("rows", share, split),
            lambda: CachingTable.of(self.table.part(split), self.scale, self._config(share)),
        )


def _fitting(options: CachingOptions, experts: int) -> tuple[tuple[float, ...], str]:
    """Return the resident shares that hold each expert, and a note on default ones that do not.

    Raises:
        InputError: shares that the user gave do not hold the largest expert.
    """
    given, shares = options.sizes, options.resident_shares
    sizes = given * experts if len(given) == 1 else given
    held = tuple(share for share in shares if max(sizes) <= (share + 1e-6) * sum(sizes))
    small = [share for share in shares if share not in held]
    if not small or len(sizes) != experts:  # the table of the episodes checks their number
        return shares, ""
    reason = (
        f"below {max(sizes) / sum(sizes):.3g} the largest of {experts} experts does not fit in GPU memory"
    )
    if shares != CachingOptions().resident_shares:
        raise InputError("problem.resident_shares", small[0], reason, "use larger shares")
    names = ", ".join(f"{share:g}" for share in small)
    return held, f"resident shares: without {names}, because {reason}"


def topic_quality(table: CachingTable) -> Tensor:
    """Return the mean quality of each expert on the topic of each row: its quality if the topic stays.

    Args:
        table: T rows, sorted into topics.

    Returns:
        [T, N] float32.
    """
    return table.topics.means(table.outcomes.quality)


def _by_split(fitted: FittedBeliefs, known: Mapping[str, Outcomes]) -> dict[str, Tensor]:
    """Return the probabilities [T, N] of the rows of each split; out-of-fold predictions on training rows."""
    chance = {split: fitted.beliefs.prior(rows.features).sigmoid() for split, rows in known.items()}
    return {**chance, "train": fitted.prior.sigmoid()}
