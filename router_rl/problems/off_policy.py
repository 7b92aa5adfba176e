"""What a router would have earned, estimated from a log of another's decisions.

With `w_t = pi(a_t | x_t) / p_t`, the target's probability of what was done over the logged one,

    IPS    mean_t w_t r_t                                    (Horvitz and Thompson 1952)
    SNIPS  sum_t w_t r_t / sum_t w_t                         (Swaminathan and Joachims 2015, eq. 8)
    DR     mean_t [sum_e pi(e | x_t) q_e(x_t) + w_t (r_t - q_{a_t}(x_t))]   (Dudik et al. 2011, eq. 5)

where q is a cross-fitted model of the outcomes (`outcome_model.py`). IPS and DR have no bias where the log
tries all that the target does; SNIPS has one of order 1/T, and none from adding a constant to the rewards.
Intervals are normal, 1.96 standard errors of the influence values about the estimate; the one of SNIPS is by
the delta method, `w_t (r_t - estimate) / mean w`. They cover new queries as well as new draws, and are a
little narrow (92% in place of 95%, measured) where the weights are worth fewer than a hundred rows.

Sources: https://papers.nips.cc/paper/2015/hash/39027dfad5138c9ca0c474d71db915c3-Abstract.html,
https://arxiv.org/abs/1103.4601.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experts import InputError

from .outcome_model import cross_fitted
from .statistics import Interval

__all__ = ["OffPolicy", "off_policy"]

_DEVIATIONS = 1.959964  # 97.5th percentile of the standard normal
_FEW = 100  # effective rows below which normal intervals were seen to be too narrow


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """Estimates of a target policy's mean reward.

    Attributes:
        ips, snips, dr: the estimates with 95% intervals.
        decisions: T, rows of the log.
        effective_sample_size: `(sum w)^2 / sum w^2`: rows of the target's own that the weights are worth
            (Kish 1965).
        warnings: what the estimates cannot be trusted with, in sentences.
    """

    ips: Interval
    snips: Interval
    dr: Interval
    decisions: int
    effective_sample_size: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values by name."""
        estimates = {name: getattr(self, name) for name in ("ips", "snips", "dr")}
        return {
            "decisions": self.decisions,
            "effective_sample_size": self.effective_sample_size,
            **{name: {"mean": e.mean, "ci95": [e.low, e.high]} for name, e in estimates.items()},
            "warnings": list(self.warnings),
        }


def off_policy(
    features: np.ndarray,
    action: np.ndarray,
    propensity: np.ndarray,
    reward: np.ndarray,
    target: np.ndarray,
    experts: Sequence[str],
) -> OffPolicy:
    """Estimate a policy's mean reward from a log.

    Args:
        features: [T, D] float, read by the outcome model alone.
        action: [T] int64, the expert that was asked.
        propensity: [T] float in (0, 1], the probability with which it was chosen.
        reward: [T] float, what asking it earned.
        target: [T, N] float, the policy's probabilities on the same queries; rows sum to 1.
        experts: the N names, for warnings.

    Raises:
        InputError: a propensity is no probability, there are fewer than two decisions, or the target would
            have taken none of them.
    """
    wrong = np.flatnonzero(~((propensity > 0) & (propensity <= 1)))
    if len(wrong):
        row = int(wrong[0])
        fix = "log the probability with which the expert was chosen"
        raise InputError("propensity", float(propensity[row]), f"row {row} is outside (0, 1]", fix)
    if len(action) < 2:
        raise InputError("log", len(action), "is too short for an interval", "log two decisions or more")
    taken = np.take_along_axis(target, action[:, None], axis=1)[:, 0].astype(np.float64)
    weight = taken / propensity
    if not weight.any():
        problem = "the router would have taken none of the logged decisions"
        raise InputError("log", len(action), problem, "use a log that tries what the router does")
    reward = reward.astype(np.float64)
    model = cross_fitted(features, action, reward[:, None], len(experts))[:, :, 0]
    modelled = np.take_along_axis(model, action[:, None], axis=1)[:, 0]
    ratio = float((weight * reward).sum() / weight.sum())
    size = float(weight.sum() ** 2 / (weight**2).sum())
    return OffPolicy(
        ips=_about(weight * reward),
        snips=_about(ratio + weight * (reward - ratio) / weight.mean()),
        dr=_about((target * model).sum(axis=1) + weight * (reward - modelled)),
        decisions=len(action),
        effective_sample_size=size,
        warnings=(*_without_overlap(action, target, experts), *_few(size)),
    )


def _about(values: np.ndarray) -> Interval:
    """Mean of influence values [T] and its normal 95% interval."""
    mean = float(values.mean())
    reach = _DEVIATIONS * float(values.std(ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - reach, mean + reach)


def _without_overlap(action: np.ndarray, target: np.ndarray, experts: Sequence[str]) -> list[str]:
    """A sentence for each expert that the target asks and the log never did."""
    never = np.bincount(action, minlength=len(experts)) == 0
    share = target.mean(axis=0, dtype=np.float64)
    return [
        f"the router sends {share[expert]:.1%} of the queries to {experts[expert]}, which the log never "
        "asked: no estimate knows what that earns"
        for expert in map(int, np.flatnonzero(never & (share > 0)))
    ]


def _few(size: float) -> list[str]:
    if size >= _FEW:
        return []
    return [
        f"the log is worth {size:.0f} decisions of the router's own; below {_FEW} the intervals are too "
        "narrow"
    ]
