"""Whether a policy collapsed, and likely why: checked on validation for every learned policy.

A policy is reported if it sends (nearly) everything to one expert where the oracle uses several, or if it
earns less than the best single expert. Every likely reason is one function of the facts, which returns a
sentence or None; a new one is a function and a place in `_REASONS`. Under bandit feedback the check uses
estimated outcomes, where the oracle is too optimistic: "nothing to route" is then rarely reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..methods.method import Bound, Method, Run
from ..methods.registry import find_method, method_names
from ..methods.training_loop import CurvePoint, Snapshot
from ..problems.load import share_entropy
from ..problems.measure import Measurement
from ..problems.problem import Case, Problem
from ..problems.routing.problem import RoutingProblem
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
    """What a policy is compared with in one case, the same for all methods.

    Attributes:
        experts: names.
        runs: k, experts a decision runs.
        single: name of the best single expert; None where the problem has no such method.
        single_utility: what it earns on validation.
        single_train_utility: what it earns on training rows; None where they are not scored.
        gain: utility of the oracle minus the single expert's, on validation, load not charged; None where
            the problem has no oracle.
        oracle_shares: [N] the oracle's shares on validation, or None.
    """

    experts: tuple[str, ...]
    runs: int
    single: str | None
    single_utility: float
    single_train_utility: float | None
    gain: float | None
    oracle_shares: np.ndarray | None

    @classmethod
    def of(cls, problem: Problem, case: Case) -> Reference:
        """Measure the best single expert and the oracle, where the problem has them.

        Args:
            problem: the problem.
            case: one of its cases.
        """
        part = problem.at(case)
        names = method_names(problem.name)
        single, here, there = None, None, None
        if "best_single" in names:
            policy = _best_single(part)
            here = part.evaluate(policy, "validation")
            there = part.evaluate(policy, "train") if problem.scores_training_rows else None
            single = _single_name(here, problem)
        oracle = None
        if "oracle" in names:
            bound = find_method(problem.name, "oracle")
            assert isinstance(bound, Bound)
            oracle = bound.measure(part, case, "validation")
        gain = (
            None
            if here is None or oracle is None
            else _without_load(oracle, case) - _without_load(here, case)
        )
        return cls(
            experts=problem.experts,
            runs=1 if problem.rule is None else problem.rule.k,
            single=single,
            single_utility=float("-inf") if here is None else here.means()["utility"],
            single_train_utility=None if there is None else there.means()["utility"],
            gain=gain,
            oracle_shares=None if oracle is None or oracle.share is None else oracle.shares,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What is known of one fit.

    Attributes:
        method, settings: its name and hyperparameters.
        shares: [N] of the kept policy, on validation; None where they are unknown.
        utility: of the kept policy, on validation.
        train_utility: of the kept policy, on training rows; None where it is not measured.
        curve: every validation measurement of the fit.
    """

    method: str
    hyperparameters: Mapping[str, Any]
    shares: np.ndarray | None
    utility: float
    train_utility: float | None
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
    entropy: float | None
    largest_share: float | None
    never_chosen: tuple[str, ...]
    regret_to_best_single: float | None
    reasons: tuple[str, ...]

    @property
    def problems(self) -> list[str]:
        """What is wrong, in sentences whose subject is the router; none if all is well."""
        found: list[str] = []
        if self.one_expert:
            found.append("sends nearly everything to one expert where the oracle uses several")
        if self.below_best_single:
            found.append(
                f"earns {self.regret_to_best_single:.4f} less than the best single expert on validation"
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """As it stands in `results.json` and `run.json`."""
        lists = {"never_chosen": list(self.never_chosen), "reasons": list(self.reasons)}
        return asdict(self) | lists | {"problems": self.problems}


def diagnose(facts: Facts, reference: Reference) -> Collapse:
    """Diagnose a fit.

    Where one expert does everything and the oracle agrees, that is no collapse, and the reasons say so.
    """
    regret = reference.single_utility - facts.utility if reference.single is not None else None
    shares, oracle = facts.shares, reference.oracle_shares
    one_expert = shares is not None and oracle is not None and collapsed(shares, oracle, reference.runs)
    below = regret is not None and regret > _SAME
    reasons: Sequence[str | None] = ()
    if one_expert or below:
        reasons = [reason(facts, reference) for reason in _REASONS]
    elif shares is not None and oracle is not None and busiest(shares, reference.runs) > ALL:
        reasons = [_one_is_right(reference)]
    return Collapse(
        one_expert=one_expert,
        below_best_single=below,
        entropy=None if shares is None else share_entropy(shares),
        largest_share=None if shares is None else float(shares.max()),
        never_chosen=() if shares is None else tuple(np.array(reference.experts)[shares == 0.0].tolist()),
        regret_to_best_single=regret,
        reasons=tuple(reason for reason in reasons if reason is not None),
    )


def live(snapshot: Snapshot, reference: Reference) -> str:
    """A warning about a policy that is training, or an empty string; an untrained policy gets none."""
    if snapshot.step == 0 or snapshot.validation is None:
        return ""
    oracle = reference.oracle_shares
    if snapshot.validation.share is not None and oracle is not None:
        shares = snapshot.validation.shares
        if collapsed(shares, oracle, reference.runs):
            return f"collapsed: all to {_busiest_names(shares, reference)}"
    if reference.single is not None and reference.single_utility - snapshot.best > _SAME:
        return f"below the best single expert ({reference.single_utility:.4f})"
    return ""


def _best_single(part: Problem) -> Any:
    """The best single expert of a problem with one case, chosen on training rows where they are scored."""
    method = find_method(part.name, "best_single")
    assert isinstance(method, Method)
    if isinstance(part, RoutingProblem):  # the baseline of the tables looks at validation rows too
        part = part.replaced(validation=part.train)
    return method.fit(part, method.hyperparameters(), Run())


def _single_name(measured: Measurement, problem: Problem) -> str:
    return "best single expert" if measured.share is None else problem.experts[int(measured.shares.argmax())]


def _without_load(measured: Measurement, case: Case) -> float:
    means = measured.means()
    if case.objective is None or "compute" not in means:
        return means["utility"]
    return case.objective.utility(means["quality"], means["compute"], 0.0)


def _busiest_names(shares: np.ndarray, reference: Reference) -> str:
    order = np.argsort(-shares, kind="stable")[: reference.runs]
    return " and ".join(reference.experts[i] for i in order)


def _one_is_right(reference: Reference) -> str:
    assert reference.oracle_shares is not None
    share = busiest(reference.oracle_shares, reference.runs)
    names = _busiest_names(reference.oracle_shares, reference)
    return f"no collapse: under this objective the oracle, too, sends {share:.0%} of the work to {names}"


def _no_gradient(facts: Facts, reference: Reference) -> str | None:
    if facts.method not in _RENORMALISED or reference.runs > 1:
        return None
    return (
        "no gradient: renormalised over the one expert chosen, the gate's weight is always 1, so the problem "
        "teaches it nothing; choose two experts a query or use another gate"
    )


def _unbalanced(facts: Facts, reference: Reference) -> str | None:
    """The shares fell to one expert early, and mostly stayed there."""
    curve = [point for point in facts.curve if point.step > 0]
    fallen = [reference.runs * point.largest_share > ALL for point in curve]
    if len(curve) < 2 or not any(fallen) or facts.shares is None or reference.oracle_shares is None:
        return None
    if not collapsed(facts.shares, reference.oracle_shares, reference.runs):
        return None
    first = fallen.index(True)
    if first > EARLY * (len(curve) - 1) or np.mean(fallen[first:]) < 0.5:
        return None
    when = f"early collapse: one expert does everything from step {curve[first].step} of {curve[-1].step} on"
    for name, what in _KEEPS_IN_PLAY.items():
        if name in facts.hyperparameters:
            knob = f"{what} ({name}={facts.hyperparameters[name]:g})"
            return f"{when}; the {knob} is too small to keep the others in play"
    return f"{when}; nothing keeps the others in play"


def _overfitting(facts: Facts, reference: Reference) -> str | None:
    if facts.train_utility is None or reference.single_train_utility is None:
        return None
    gap = facts.train_utility - facts.utility
    excess = gap - (reference.single_train_utility - reference.single_utility)
    if excess <= OVERFITTED:
        return None
    return (
        f"overfitting: utility is {facts.train_utility:.3f} on the training rows and {facts.utility:.3f} on "
        "validation; use more weight decay, a smaller scorer or more rows"
    )


def _nothing_to_route(facts: Facts, reference: Reference) -> str | None:
    if reference.gain is None or reference.gain >= LITTLE_TO_GAIN:
        return None
    return (
        f"nothing to route: the oracle is only {reference.gain:.4f} above the best single expert, "
        f"{reference.single}"
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
