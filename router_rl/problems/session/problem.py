"""Sessions: which model answers each turn of a conversation; a switch pays for the whole context again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from envs.conversations import Conversations
from envs.outcomes import Outcomes
from envs.session import SessionConfig, SessionCore, SessionTable
from experts import InputError, OutcomeTable
from experts.table.splitting import SPLITS

from ...routing.policies.session_policy import SessionPolicy
from ..cascade.beliefs import FittedBeliefs, fit_beliefs
from ..data_digest import digest_of, table_digest
from ..measure import Measurement
from ..objective import Objective
from ..objective_fields import compute_weight_cases
from ..options import options_as_json, with_changes
from ..problem import Case, Policy, Problem, ProblemCard
from ..prompt_features import with_features
from ..table_facts import table_facts
from ..tuning_rows import with_tuning_rows
from .session_episodes import run_sessions
from .session_options import SessionOptions

__all__ = ["SessionProblem"]

_WEIGHTS = (0.05, 0.2)
_SEEDS = {"validation": 600_000, "tuning": 700_000, "test": 800_000}
_PARTS = {"train": (0.0, 0.5), "validation": (0.5, 0.625), "tuning": (0.625, 0.75), "test": (0.75, 1.0)}
_GENERATED = 1024  # conversations of a split


class SessionProblem(Problem):
    """Which expert answers each turn of a conversation; each expert has its own prompt cache.

    Args:
        table: an outcome table with a split, and with features or prompts to make features of. Its groups
            are the topics of the turns.
        objective: what to maximise; several make one case each. None: compute weights 0.05 and 0.2.
        options: the other options; the defaults if None.
        changes: fields of `SessionOptions`, in place of those of `options`.

    Attributes:
        scale: US$ of one unit of compute, a turn of the most expensive expert that is used throughout, on the
            training conversations; only relative where no prices are given.
        fitted: the probability that each expert is right, from the training rows.
        foreseen: the same for the next turns, from the topics of the training rows.
        chance, later: [T, N] float32 by split, the probability of being right on the turn and on the next
            ones; out-of-fold predictions on training rows.
        text: the pipeline that makes features of prompts; None where the table has features.

    Raises:
        InputError: features cannot be made, the table lacks a split, a trace cannot be read, or an option or
            an objective does not fit.
    """

    name: ClassVar[str] = "session"
    environment: ClassVar[str] = "RouterRL/Session-v0"
    about: ClassVar[str] = "choose the model of each turn; a switch loses the prompt cache"
    options_type: ClassVar[type] = SessionOptions
    observes: ClassVar[tuple[str, ...]] = ("conversation",)
    always: ClassVar[tuple[str, ...]] = ("best_single", "switching_bonus", "dynamic_programming")
    compared_weights: ClassVar[tuple[float, ...]] = _WEIGHTS
    trained_weights: ClassVar[tuple[float, ...]] = _WEIGHTS[:1]

    table: OutcomeTable

    def __init__(
        self,
        table: OutcomeTable,
        objective: Objective | Sequence[Objective] | None = None,
        *,
        options: SessionOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(table)
        self.options: SessionOptions = with_changes(options or SessionOptions(), changes)
        if objective is None:
            objective = [Objective(compute_weight=weight) for weight in _WEIGHTS]
        objectives = (objective,) if isinstance(objective, Objective) else tuple(objective)
        # Without an objective of its own, as all cases whose episodes are not rows of the table.
        cases = compute_weight_cases(SessionProblem, objectives)
        self.cases = tuple(replace(case, objective=None) for case in cases)
        featured = with_features(with_tuning_rows(table), self.options.features)
        self.table, self.text = featured.table, featured.text
        path = self.options.sessions
        self._recorded = None if path == "generated" else Conversations.read(path)
        known = {split: self.rows(split).outcomes for split in SPLITS}
        train = known["train"]
        # A turn is answered once, so confidences play no part.
        even = torch.full_like(train.quality, 0.5)
        self.fitted = fit_beliefs(train.features, even, train.quality, seed=0)
        later = self.rows("train").topics.means(train.quality)
        self.foreseen = fit_beliefs(train.features, even, later, seed=0)
        self.chance, self.later = (_by_split(each, known) for each in (self.fitted, self.foreseen))

    def changed(self, **changes: Any) -> SessionProblem:
        """Return the same table with other conversations, prices or topics; the predictions are shared.

        Args:
            changes: fields of `SessionOptions` but `sessions` and `features`.

        Raises:
            InputError: a field cannot be changed, or a value does not fit.
        """
        for name in ("sessions", "features"):
            if name in changes:
                reason = "belongs to the table and its predictions"
                raise InputError(f"problem.{name}", str(changes[name]), reason, "make another problem")
        part = self.copied()
        part.options, part.cache = with_changes(self.options, changes), {}
        part.rows("train")
        return part

    @property
    def scale(self) -> float:
        """US$ of one unit of compute; only relative where no prices are given."""
        return self.rows("train").scale

    def config(self, case: Case) -> SessionConfig:
        """Return the environment's options in a case."""
        config: SessionConfig = self.options.config(case.values["compute_weight"])
        return config

    def conversations(self, split: str) -> Conversations:
        """Return the conversations of a split."""
        if self._recorded is not None:
            return self._recorded.part(*_PARTS[split])
        return Conversations.generated(_GENERATED, seed=SPLITS.index(split), **self.options.generator())

    def rows(self, split: str) -> SessionTable:
        """Return the rows and the conversations of a split, as the environment has them."""

        def made() -> SessionTable:
            unit = None if split == "train" else self.rows("train")
            talk = self.conversations(split)
            return SessionTable.of(self.table.part(split), talk, self.config(self.cases[0]), unit)

        return self.cached(("rows", split), made)

    def policy(self, case: Case, hidden: int = 0) -> SessionPolicy:
        """Return a policy whose weights are all 0.

        Args:
            case: its compute weight.
            hidden: width of the network's hidden layer; 0 for none.
        """
        rows = self.rows("train")
        policy = SessionPolicy(
            self.experts,
            rows.outcomes.features.shape[1],
            self.fitted.beliefs,
            self.foreseen.beliefs,
            hidden,
        )
        policy.prices.copy_(rows.prices)
        policy.expiry_s.copy_(rows.expiry_s)
        policy.mean_output.fill_(rows.mean_output)
        policy.compute_weight.fill_(case.values["compute_weight"])
        return policy.requires_grad_(False)

    def digest(self) -> str:
        """Return a digest of the outcomes, the conversations and the options."""
        recorded = self._recorded
        talk = (
            [] if recorded is None else [recorded.context, recorded.shared, recorded.output, recorded.gap_s]
        )
        options = options_as_json(self.options) | {"sessions": "generated" if recorded is None else "trace"}
        return digest_of(table_digest(self.table), options, *talk)

    def core(self, split: str, case: Case, *, lanes: int, seed: int, group: int = 1) -> SessionCore:
        """Return the environment on the rows and the conversations of a split.

        Args:
            split: `train`, `validation`, `tuning` or `test`.
            case: its compute weight.
            lanes: B.
            seed: lane i uses the random stream `seed + i // group`.
            group: consecutive lanes that get the same conversations.
        """
        return SessionCore(self.rows(split), self.config(case), lanes, seed=seed, group=group)

    def evaluate(self, policy: Policy, split: str, case: Case | None = None, *, seed: int = 0) -> Measurement:
        """Run `options.episodes` lanes of conversations, which do not depend on the policy.

        Args:
            policy: observations [B, D + 5 N + 4] to experts [B].
            split: `validation`, `tuning` or `test`.
            case: the case; the only one if None.
            seed: not used: the policies are deterministic.

        Raises:
            InputError: the split has no evaluation episodes.
        """
        if split not in _SEEDS:
            raise InputError("split", split, "has no evaluation episodes", "use validation, tuning or test")
        case = case or self.case

        def measured() -> Measurement:
            core = self.core(split, case, lanes=self.options.episodes, seed=_SEEDS[split])
            return run_sessions(policy, core, self.options.window)

        module = getattr(policy, "module", policy)
        if not isinstance(module, SessionPolicy):
            return measured()
        # Rules have no seed, and a policy that kept its start is equal to it.
        return self.cached(("measured", split, case.values["compute_weight"], _content(module)), measured)

    def describe(self) -> ProblemCard:
        """Return the description for reports and `list`."""
        unit = "usd" if self.options.prices else "unknown"
        return ProblemCard(
            name=self.name,
            environment=self.environment,
            about=self.about,
            source=self.table.source,
            experts=self.experts,
            options=options_as_json(self.options),
            facts=table_facts(self.table, self.scale)
            | self.conversations("train").facts()
            | {"cost_unit": unit},
            notes=self.table.notes,
            utility="quality - compute_weight x compute",
        )


def _content(policy: SessionPolicy) -> str:
    """Return a digest of all that a policy's choices depend on."""
    weights = policy.state_dict()
    return digest_of(policy.spec(), list(weights), *[weights[name].cpu().numpy() for name in weights])


def _by_split(fitted: FittedBeliefs, known: Mapping[str, Outcomes]) -> dict[str, Tensor]:
    """Return the probabilities [T, N] of the rows of each split; out-of-fold predictions on training rows."""
    chance = {split: fitted.beliefs.prior(rows.features).sigmoid() for split, rows in known.items()}
    return {**chance, "train": fitted.prior.sigmoid()}
