"""Detect collapsed policies and their likely causes; every learned policy is checked on validation.

A policy is reported if it sends (nearly) all queries to one expert while the oracle uses several, or if its
utility is below that of the best single expert. Each likely cause is one function of the facts that returns a
sentence or None; a new cause is one function and one entry of `_REASONS`. Under bandit feedback the check
uses estimated outcomes, which make the oracle too optimistic, so "nothing to route" is then rarely reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..methods.method import Bound, Method, Run
from ..methods.registry import find_method, offers
from ..methods.training_loop import CurvePoint, Snapshot
from ..problems.load import share_entropy
from ..problems.measure import Measurement
from ..problems.problem import Case, Problem
from ..problems.routing.problem import RoutingProblem
from .metrics import ALL, busiest, collapsed

__all__ = ["Collapse", "Facts", "Reference", "diagnose", "live"]

LITTLE_TO_GAIN = 0.02  # utility of the oracle minus the best single expert below which routing cannot help
OVERFITTED = 0.05  # gap between training and validation utility, in excess of the best single expert's gap
EARLY = 0.25  # share of the validations
_TOLERANCE = 1e-6  # utilities are means of float32
# Gates that renormalize over the selected experts: with one expert the weight is 1 and has no gradient.
_RENORMALISED = ("mixtral_gate",)
# Hyperparameters that keep experts in use, and their names in a sentence; the first that exists is named.
_KEEP_IN_USE = {
    "balance": "auxiliary load loss",
    "importance": "auxiliary importance loss",
    "entropy": "entropy bonus",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Reference values of one case, shared by all methods.

    Attributes:
        experts: names of the experts.
        runs: k, experts per decision.
        single: name of the best single expert; None if the problem has no such method.
        single_utility: its mean utility on validation.
        single_train_utility: its mean utility on training rows; None if they are not evaluated.
        gain: validation utility of the oracle minus that of the best single expert, without load penalty;
            None if the problem has no oracle.
        oracle_shares: [N] float, the oracle's shares on validation, or None.
    """

    experts: tuple[str, ...]
    runs: int
    single: str | None
    single_utility: float
    single_train_utility: float | None
    gain: float | None
    oracle_shares: np.ndarray | None

    @classmethod
    def of(cls, problem: Problem, case: Case, split: str = "tuning") -> Reference:
        """Evaluate the best single expert and the oracle, if the problem has them.

        Args:
            problem: the problem.
            case: one of its cases.
            split: rows that the policies to check are evaluated on.
        """
        part = problem.at(case)
        single, validation, train = None, None, None
        if offers(problem, "best_single"):
            policy = _best_single(part)
            validation = part.evaluate(policy, split)
            train = part.evaluate(policy, "train") if problem.scores_training_rows else None
            single = _single_name(validation, problem)
        oracle = None
        if offers(problem, "oracle"):
            bound = find_method(problem.name, "oracle")
            assert isinstance(bound, Bound)
            oracle = bound.measure(part, case, split)
        gain = (
            None
            if validation is None or oracle is None
            else _without_load(oracle, case) - _without_load(validation, case)
        )
        return cls(
            experts=problem.experts,
            runs=1 if problem.rule is None else problem.rule.k,
            single=single,
            single_utility=float("-inf") if validation is None else validation.means()["utility"],
            single_train_utility=None if train is None else train.means()["utility"],
            gain=gain,
            oracle_shares=None if oracle is None or oracle.share is None else oracle.shares,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """The facts of one fit that the check uses.

    Attributes:
        method: name of the method.
        hyperparameters: its hyperparameters.
        shares: [N] float, the policy's shares on validation; None if unknown.
        utility: mean utility on validation.
        train_utility: mean utility on training rows; None if not evaluated.
        curve: all validation results of the fit.
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
        one_expert: whether it uses one expert (k, if a decision uses k) while the oracle uses several.
        below_best_single: whether its utility is below that of the expert that is best on the training rows.
        entropy: entropy of the shares, in nats.
        largest_share: largest share of one expert.
        never_chosen: names of the experts without a query.
        regret_to_best_single: utility of the best single expert minus the policy's; positive is worse.
        reasons: likely causes; may be empty.
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
        """The problems, as sentences whose subject is the policy; empty if there are none."""
        problems: list[str] = []
        if self.one_expert:
            problems.append("sends nearly all queries to one expert while the oracle uses several")
        if self.below_best_single:
            problems.append(
                f"has a utility {self.regret_to_best_single:.4f} below the best single expert on validation"
            )
        return problems

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as in `results.json` and `run.json`."""
        lists = {"never_chosen": list(self.never_chosen), "reasons": list(self.reasons)}
        return asdict(self) | lists | {"problems": self.problems}


def diagnose(facts: Facts, reference: Reference) -> Collapse:
    """Diagnose a fit.

    If the policy uses one expert and so does the oracle, it is not a collapse; the reasons then say so.

    Args:
        facts: of the fit.
        reference: of its case.
    """
    regret = reference.single_utility - facts.utility if reference.single is not None else None
    shares, oracle = facts.shares, reference.oracle_shares
    one_expert = shares is not None and oracle is not None and collapsed(shares, oracle, reference.runs)
    below = regret is not None and regret > _TOLERANCE
    reasons: Sequence[str | None] = ()
    if one_expert or below:
        reasons = [reason(facts, reference) for reason in _REASONS]
    elif shares is not None and oracle is not None and busiest(shares, reference.runs) > ALL:
        reasons = [_one_is_optimal(reference)]
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
    """Return a warning about a policy in training, or an empty string; an untrained policy gets none."""
    if snapshot.step == 0 or snapshot.validation is None:
        return ""
    oracle = reference.oracle_shares
    if snapshot.validation.share is not None and oracle is not None:
        shares = snapshot.validation.shares
        if collapsed(shares, oracle, reference.runs):
            return f"collapsed: all to {_busiest_names(shares, reference)}"
    if reference.single is not None and reference.single_utility - snapshot.best > _TOLERANCE:
        return f"below the best single expert ({reference.single_utility:.4f})"
    return ""


def _best_single(part: Problem) -> Any:
    """Return the best single expert of a problem with one case, selected on training rows if possible."""
    method = find_method(part.name, "best_single")
    assert isinstance(method, Method)
    if isinstance(part, RoutingProblem):  # the baseline in the tables also uses validation rows
        part = part.replaced(validation=part.train)
    return method.fit(part, method.hyperparameters(), Run())


def _single_name(measurement: Measurement, problem: Problem) -> str:
    return (
        "best single expert"
        if measurement.share is None
        else problem.experts[int(measurement.shares.argmax())]
    )


def _without_load(measurement: Measurement, case: Case) -> float:
    means = measurement.means()
    if case.objective is None or "compute" not in means:
        return means["utility"]
    return case.objective.utility(means["quality"], means["compute"], 0.0)


def _busiest_names(shares: np.ndarray, reference: Reference) -> str:
    order = np.argsort(-shares, kind="stable")[: reference.runs]
    return " and ".join(reference.experts[i] for i in order)


def _one_is_optimal(reference: Reference) -> str:
    assert reference.oracle_shares is not None
    share = busiest(reference.oracle_shares, reference.runs)
    names = _busiest_names(reference.oracle_shares, reference)
    return f"no collapse: under this objective the oracle, too, sends {share:.0%} of the queries to {names}"


def _no_gradient(facts: Facts, reference: Reference) -> str | None:
    if facts.method not in _RENORMALISED or reference.runs > 1:
        return None
    return (
        "no gradient: renormalised over the one expert selected, the gate's weight is always 1, so the task "
        "loss has no gradient; select two experts per query or use another gate"
    )


def _unbalanced(facts: Facts, reference: Reference) -> str | None:
    """The largest share rose to (nearly) 1 early, and mostly stayed there."""
    curve = [point for point in facts.curve if point.step > 0]
    collapses = [reference.runs * point.largest_share > ALL for point in curve]
    if len(curve) < 2 or not any(collapses) or facts.shares is None or reference.oracle_shares is None:
        return None
    if not collapsed(facts.shares, reference.oracle_shares, reference.runs):
        return None
    first = collapses.index(True)
    if first > EARLY * (len(curve) - 1) or np.mean(collapses[first:]) < 0.5:
        return None
    when = f"early collapse: one expert gets all queries from step {curve[first].step} of {curve[-1].step} on"
    for name, what in _KEEP_IN_USE.items():
        if name in facts.hyperparameters:
            term = f"{what} ({name}={facts.hyperparameters[name]:g})"
            return f"{when}; the {term} is too small to keep the others in use"
    return f"{when}; nothing keeps the others in use"


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
        "learning stopped at once: no later validation was better than the first, whose weights were kept; "
        "try another learning rate"
    )


_REASONS: tuple[Callable[[Facts, Reference], str | None], ...] = (
    _no_gradient,
    _unbalanced,
    _overfitting,
    _nothing_to_route,
    _stopped_at_once,
)
