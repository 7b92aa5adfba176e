"""Rules of sessions, tuned on training and validation rows: stay, ignore the future, or price a switch.

All are weights of `SessionPolicy`. They use no seed, so each is tuned once for every case.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

from ...problems.problem import ActionPolicy
from ...problems.session.problem import SessionProblem
from ...routing.policies.session_policy import SessionPolicy
from ..method import Method, NoHyperparameters, Run
from .session_candidates import Candidate, best_candidate

__all__ = ["METHODS", "RULES", "exported_session", "strongest_rule", "tuned_rule"]

_ALWAYS = 1e3  # weight of `stay` that no difference of utility outweighs
_SHARES = (0.0, 0.5, 1.0)  # of `later` in the prediction of quality
_FINE_SHARES = (0.0, 0.5, 0.75, 1.0)
_COSTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # the first turn's cost counts as much: later ones differ
_BONUSES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
_REFILLS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.6, 1.0)
_FEW_BONUSES = (0.0, 0.03)
_THRESHOLDS = (0.0, 2e3, 4e3, 8e3, 16e3, 32e3, 64e3, 128e3, 256e3)  # tokens
_SCALES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)

Grid = Callable[[SessionProblem], Sequence[Candidate]]


def exported_session(policy: SessionPolicy) -> ActionPolicy:
    """Return a session policy with itself as the module that is exported."""
    return ActionPolicy(actions=policy.act, module=policy)


def tuned_rule(problem: SessionProblem, name: str) -> SessionPolicy:
    """Return the best candidate of a rule on validation rows, found once for every case.

    Args:
        problem: with one case.
        name: of the rule.
    """

    def tuned() -> SessionPolicy:
        best = best_candidate(problem, _GRIDS[name](problem))
        if name == "refill_index":  # the rule with most constants gets a second, finer grid around the first
            best = best_candidate(problem, _around(best))
        return best.set(problem.policy(problem.case))

    policy: SessionPolicy = problem.cached(("rule", name, problem.case.values["compute_weight"]), tuned)
    return policy


def strongest_rule(problem: SessionProblem) -> SessionPolicy:
    """Return the rule of the highest utility on validation rows.

    Args:
        problem: with one case.
    """

    def chosen() -> SessionPolicy:
        rules = [tuned_rule(problem, name) for name in RULES]
        measured = [problem.evaluate(rule, "validation").means()["utility"] for rule in rules]
        return rules[measured.index(max(measured))]

    policy: SessionPolicy = problem.cached(("strongest", problem.case.values["compute_weight"]), chosen)
    return policy


def _worth(share: float, cost: float = 1.0, refill: float = 1.0, **others: float) -> dict[str, float]:
    """Weights of the predicted utility: `share` of the quality is that of the next turns."""
    return {"chance": 1.0 - share, "later": share, "cost": -cost, "refill": -refill, **others}


def _best_single(problem: SessionProblem) -> Sequence[Candidate]:
    return [Candidate(expert=expert) for expert in range(len(problem.experts))]


def _sticky(problem: SessionProblem) -> Sequence[Candidate]:
    return [
        Candidate(weights=_worth(share, cost, cost, stay=_ALWAYS)) for share, cost in product(_SHARES, _COSTS)
    ]


def _myopic(problem: SessionProblem) -> Sequence[Candidate]:
    return [Candidate(weights=_worth(0.0))]


def _switching_bonus(problem: SessionProblem) -> Sequence[Candidate]:
    return [
        Candidate(weights=_worth(share, stay=bonus))
        for share, bonus in product(_SHARES, (*_BONUSES, _ALWAYS))
    ]


def _context_threshold(problem: SessionProblem) -> Sequence[Candidate]:
    return [
        Candidate(weights={**_worth(share, refill=refill), "long stay": _ALWAYS}, threshold=tokens)
        for share, refill, tokens in product(_SHARES, (0.0, 0.3, 1.0), _THRESHOLDS)
    ]


def _refill_index(problem: SessionProblem) -> Sequence[Candidate]:
    return [
        Candidate(weights=_worth(share, refill=refill, stay=bonus))
        for share, refill, bonus in product(_FINE_SHARES, _REFILLS, _FEW_BONUSES)
    ]


def _around(best: Candidate) -> Sequence[Candidate]:
    """The candidate, and those of weights near its own."""
    share, refill, bonus = best.weights["later"], -best.weights["refill"], best.weights.get("stay", 0.0)
    near = product(
        sorted({share, max(0.0, share - 0.15), min(1.0, share + 0.15)}),
        sorted({refill, 0.75 * refill, 1.3 * refill, refill + 0.02}),
        sorted({bonus, bonus / 2.0, bonus + 0.02}),
    )
    return [
        best,
        *(Candidate(weights=_worth(share, refill=refill, stay=bonus)) for share, refill, bonus in near),
    ]


def _session_aware(problem: SessionProblem) -> Sequence[Candidate]:
    return [
        Candidate(weights={**_worth(share, refill=0.0), "session-aware": scale})
        for share, scale in product(_SHARES, _SCALES)
    ]


_GRIDS: dict[str, Grid] = {
    "best_single": _best_single,
    "sticky": _sticky,
    "myopic": _myopic,
    "switching_bonus": _switching_bonus,
    "context_threshold": _context_threshold,
    "refill_index": _refill_index,
    "session_aware": _session_aware,
}

RULES = tuple(_GRIDS)


def _method(name: str, about: str) -> Method:
    def fit(problem: SessionProblem, hyperparameters: NoHyperparameters, run: Run) -> ActionPolicy:
        return exported_session(tuned_rule(problem, name))

    return Method(name=name, family="baseline", fit=fit, about=about)


METHODS = (
    _method("best_single", "one model for all turns of all conversations"),
    _method("sticky", "choose a model at the first turn and stay with it"),
    _method("myopic", "the highest predicted utility of this turn"),
    _method("switching_bonus", "predicted utility, plus a bonus for the previous model"),
    _method("context_threshold", "predicted utility; no switch above some tokens"),
    _method("refill_index", "predicted utility, with a tuned share of the refill cost"),
    _method("session_aware", "vLLM Semantic Router's score with a tuned scale"),
)
