"""Whether a router collapsed, and likely why: on the validation rows, for every learned router, by default.

A router is told of if it sends (nearly) everything to one expert where the oracle uses several, or if it
earns less than the best single expert. Every likely reason is one function of the facts, which returns a
sentence or None; a new one is a function and a place in `_REASONS`. Under bandit feedback all of it is judged
on estimated outcomes, where the oracle flatters itself: "nothing to route" is then seldom found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..methods.baselines.constants import NoSettings, fit_best_single
from ..methods.baselines.oracle import measure_oracle
from ..methods.method import Run
from ..methods.training_loop import CurvePoint, Snapshot
from ..problems.load import share_entropy
from ..problems.routing.problem import Task
from ..problems.routing.router_measurement import Measurement, measure
from .metrics import ALL, busiest, collapsed

__all__ = ["JUDGED", "Collapse", "Facts", "Reference", "diagnose", "live"]

JUDGED = ("rl", "gate")  # families; the best single expert "collapses" by design, and so do others

LITTLE_TO_GAIN = 0.02  # utility: an oracle this near the best single expert leaves nothing to route
OVERFITTED = 0.05  # utility: how much further than the best single expert's training may lie above validation
EARLY = 0.25  # of the measurements made
_SAME = 1e-6  # utilities are means of float32
# Gates that renormalise over the chosen experts: with one of them the weight is 1 and carries no gradient.
_RENORMALISED = ("mixtral_gate",)
# Settings that keep experts in play, and what they are called in a sentence; the first that exists is named.
_KEEPS_IN_PLAY = {
    "balance": "auxiliary load loss",
    "importance": "auxiliary importance loss",
    "entropy": "entropy bonus",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What a router is held against, the same for all methods under one objective.

    Attributes:
        experts: names.
        runs: k, experts a decision runs.
        single: number of the expert that is best on the training rows.
        single_utility, single_train_utility: what it earns on validation and training rows.
        gain: utility of the oracle less the single expert's, on validation, neither charged for load.
        oracle_shares: [N] on validation.
    """

    experts: tuple[str, ...]
    runs: int
    single: int
    single_utility: float
    single_train_utility: float
    gain: float
    oracle_shares: np.ndarray

    @classmethod
    def of(cls, task: Task) -> Reference:
        """Measure the best single expert (with k a decision, the k best), and the oracle."""
        on_train = replace(task, validation=task.train)  # the baseline of the tables looks at validation too
        router = fit_best_single(on_train, NoSettings(), Run())
        there = measure(router, task.train, task.objective, task.scale)
        here = measure(router, task.validation, task.objective, task.scale)
        sizes = task.rule.sizes(len(task.train.experts))
        oracle = measure_oracle(task.validation, task.objective, task.scale, sizes, task.affordable)
        return cls(
            experts=task.train.experts,
            runs=task.rule.k,
            single=int(here.shares.argmax()),
            single_utility=here.means()["utility"],
            single_train_utility=there.means()["utility"],
            gain=_unloaded(oracle, task) - _unloaded(here, task),
            oracle_shares=oracle.shares,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What is known of one fit.

    Attributes:
        method, settings: its name and hyperparameters.
        shares: [N] of the kept router, on validation.
        utility, train_utility: of the kept router, on validation and training rows.
        curve: every measurement while it trained.
    """

    method: str
    settings: Mapping[str, Any]
    shares: np.ndarray
    utility: float
    train_utility: float
    curve: Sequence[CurvePoint]


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """The diagnosis of one fit, on validation.

    Attributes:
        one_expert: it uses one expert (k, where a decision runs k) and the oracle several.
        below_best_single: it earns less than the expert that is best on the training rows.
        entropy: of the shares, nats.
        largest_share: of the shares.
        never_chosen: names of the experts without a query.
        regret_to_best_single: utility of that expert less the router's; positive is bad.
        reasons: likely ones in plain words; none found, or none needed: empty.
    """

    one_expert: bool
    below_best_single: bool
    entropy: float
    largest_share: float
    never_chosen: tuple[str, ...]
    regret_to_best_single: float
    reasons: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """What is wrong, in sentences whose subject is the router; none if all is well."""
        found: list[str] = []
        if self.one_expert:
            found.append("sends nearly everything to one expert where the oracle uses several")
        if self.below_best_single:
            regret = self.regret_to_best_single
            found.append(f"earns {regret:.4f} less than the best single expert on validation")
        return found

    def to_json(self) -> dict[str, Any]:
        """As it stands in `results.json` and `run.json`."""
        lists = {"never_chosen": list(self.never_chosen), "reasons": list(self.reasons)}
        return asdict(self) | lists | {"problems": self.problems}


def diagnose(facts: Facts, reference: Reference) -> Collapse:
    """Judge a fit.

    Where one expert does everything and the oracle agrees, that is no collapse, and the reasons say so.
    """
    regret = reference.single_utility - facts.utility
    one_expert = collapsed(facts.shares, reference.oracle_shares, reference.runs)
    below = regret > _SAME
    reasons: Sequence[str | None] = ()
    if one_expert or below:
        reasons = [reason(facts, reference) for reason in _REASONS]
    elif busiest(facts.shares, reference.runs) > ALL:
        reasons = [_one_is_right(reference)]
    return Collapse(
        one_expert=one_expert,
        below_best_single=below,
        entropy=share_entropy(facts.shares),
        largest_share=float(facts.shares.max()),
        never_chosen=tuple(np.array(reference.experts)[facts.shares == 0.0].tolist()),
        regret_to_best_single=regret,
        reasons=tuple(reason for reason in reasons if reason is not None),
    )


def live(snapshot: Snapshot, reference: Reference) -> str:
    """What there is to say while a router trains, or nothing; an untrained router is not judged."""
    shares = snapshot.validation.shares
    if snapshot.step == 0:
        return ""
    if collapsed(shares, reference.oracle_shares, reference.runs):
        return f"collapsed: all to {_busiest_names(shares, reference)}"
    if reference.single_utility - snapshot.best > _SAME:
        return f"below the best single expert ({reference.single_utility:.4f})"
    return ""


def _unloaded(found: Measurement, task: Task) -> float:
    means = found.means()
    return task.objective.utility(means["quality"], means["compute"], 0.0)


def _busiest_names(shares: np.ndarray, reference: Reference) -> str:
    order = np.argsort(-shares, kind="stable")[: reference.runs]
    return " and ".join(reference.experts[i] for i in order)


def _one_is_right(reference: Reference) -> str:
    share = busiest(reference.oracle_shares, reference.runs)
    names = _busiest_names(reference.oracle_shares, reference)
    return f"no collapse: under this objective the oracle, too, sends {share:.0%} of the work to {names}"


def _no_gradient(facts: Facts, reference: Reference) -> str | None:
    if facts.method not in _RENORMALISED or reference.runs > 1:
        return None
    return (
        "no gradient: renormalised over the one expert chosen, the gate's weight is always 1, so the task "
        "teaches it nothing; choose two experts a query or use another gate"
    )


def _unbalanced(facts: Facts, reference: Reference) -> str | None:
    """The shares fell to one expert early, and mostly stayed there."""
    curve = [point for point in facts.curve if point.step > 0]
    fallen = [reference.runs * point.largest_share > ALL for point in curve]
    if (
        len(curve) < 2
        or not any(fallen)
        or not collapsed(facts.shares, reference.oracle_shares, reference.runs)
    ):
        return None
    first = fallen.index(True)
    if first > EARLY * (len(curve) - 1) or np.mean(fallen[first:]) < 0.5:
        return None
    when = f"early collapse: one expert does everything from step {curve[first].step} of {curve[-1].step} on"
    for name, what in _KEEPS_IN_PLAY.items():
        if name in facts.settings:
            knob = f"{what} ({name}={facts.settings[name]:g})"
            return f"{when}; the {knob} is too small to keep the others in play"
    return f"{when}; nothing keeps the others in play"


def _overfitting(facts: Facts, reference: Reference) -> str | None:
    gap = facts.train_utility - facts.utility
    excess = gap - (reference.single_train_utility - reference.single_utility)
    if excess <= OVERFITTED:
        return None
    return (
        f"overfitting: utility is {facts.train_utility:.3f} on the training rows and {facts.utility:.3f} on "
        "validation; use more weight decay, a smaller scorer or more rows"
    )


def _nothing_to_route(facts: Facts, reference: Reference) -> str | None:
    if reference.gain >= LITTLE_TO_GAIN:
        return None
    return (
        f"nothing to route: the oracle is only {reference.gain:.4f} above the best single expert, "
        f"{reference.experts[reference.single]}"
    )


def _stopped_at_once(facts: Facts, reference: Reference) -> str | None:
    if len(facts.curve) < 2 or facts.curve[0].step != 0:
        return None
    if max(point.utility for point in facts.curve[1:]) > facts.curve[0].utility:
        return None
    return (
        "learning stopped at once: none of the later measurements was better than the first, which was kept; "
        "try another learning rate"
    )


_REASONS: tuple[Callable[[Facts, Reference], str | None], ...] = (
    _no_gradient,
    _unbalanced,
    _overfitting,
    _nothing_to_route,
    _stopped_at_once,
)
