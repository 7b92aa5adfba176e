"""Off-policy evaluation: estimate a router's mean reward from a decision log of another policy.

With the importance weights `w_t = pi(a_t | x_t) / p_t`,

    IPS    mean_t w_t r_t                                    (Horvitz and Thompson 1952)
    SNIPS  sum_t w_t r_t / sum_t w_t                         (Swaminathan and Joachims 2015, eq. 8)
    DR     mean_t [sum_e pi(e | x_t) q_e(x_t) + w_t (r_t - q_{a_t}(x_t))]   (Dudik et al. 2011, eq. 5)

where q is a cross-fitted outcome model (`outcome_model.py`). IPS and DR are unbiased if the log explores all
that the target does. SNIPS has a bias of order 1/T, but is invariant to adding a constant to the rewards.

Intervals are the estimate, plus and minus its standard error times a quantile of Student's t. The standard
error is that of the mean of influence values v_t; those of SNIPS are from the delta method, each divided by
`1 - w_t / sum w`, as residuals of a weighted mean (HC3, MacKinnon and White 1985). Few decisions with large
weights determine a standard error, so it is uncertain, and a normal quantile would be too small. The degrees
of freedom match the variance of its square, which depends on the kurtosis k of the influence values (the
method of Satterthwaite 1946): `2 / (2 / (T - 1) + (k - 3) / T)`, with k at least 3. Intervals cover new
queries and new samples of the log; `benchmarks/shadow_coverage.py` measures how often they hold the truth.

Sources: https://papers.nips.cc/paper/2015/hash/39027dfad5138c9ca0c474d71db915c3-Abstract.html,
https://arxiv.org/abs/1103.4601, https://doi.org/10.1016/0304-4076(85)90158-7,
https://doi.org/10.2307/3002019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from experts import InputError

from .outcome_model import cross_fitted
from .statistics import Interval

__all__ = ["OffPolicy", "off_policy"]

_LEVEL = 0.975  # of the upper end
_MAX_SHARE = 0.999  # of one decision in all weights; above it, its influence is not divided further
_MIN_SIZE = 30  # effective sample size below which intervals are too narrow


@dataclass(frozen=True, kw_only=True)
class OffPolicy:
    """Estimates of a target policy's mean reward.

    Attributes:
        ips: inverse propensity score estimate with a 95% CI.
        snips: self-normalized estimate with a 95% CI.
        dr: doubly robust estimate with a 95% CI.
        logged: mean reward of the logged decisions with a 95% CI.
        difference: `dr` minus `logged`, paired by decision, with a 95% CI.
        decisions: T, rows of the log.
        effective_sample_size: `(sum w)^2 / sum w^2` (Kish 1965).
        warnings: reasons not to trust the estimates.
    """

    ips: Interval
    snips: Interval
    dr: Interval
    logged: Interval
    difference: Interval
    decisions: int
    effective_sample_size: float
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the estimates as JSON."""
        names = ("ips", "snips", "dr", "logged", "difference")
        estimates = {name: getattr(self, name) for name in names}
        return {
            "decisions": self.decisions,
            "effective_sample_size": self.effective_sample_size,
            **{name: each.to_json() for name, each in estimates.items()},
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
        features: [T, D] float, inputs of the outcome model.
        action: [T] int64, selected expert.
        propensity: [T] float in (0, 1], probability of the selection.
        reward: [T] float, reward of the selected expert.
        target: [T, N] float, the policy's probabilities on the same queries; rows sum to 1.
        experts: N names, for warnings.

    Raises:
        InputError: a propensity is not in (0, 1], there are fewer than two decisions, or the target would
            never take the logged decision.
    """
    wrong = np.flatnonzero(~((propensity > 0) & (propensity <= 1)))
    if len(wrong):
        row = int(wrong[0])
        fix = "log the probability with which the expert was selected"
        raise InputError("propensity", float(propensity[row]), f"row {row} is outside (0, 1]", fix)
    if len(action) < 2:
        raise InputError("log", len(action), "is too short for an interval", "log two decisions or more")
    taken = np.take_along_axis(target, action[:, None], axis=1)[:, 0].astype(np.float64)
    weight = taken / propensity
    if not weight.any():
        problem = "the router never takes the logged decision"
        raise InputError("log", len(action), problem, "use a log that explores the router's choices")
    reward = reward.astype(np.float64)
    model = cross_fitted(features, action, reward[:, None], len(experts))[:, :, 0]
    modelled = np.take_along_axis(model, action[:, None], axis=1)[:, 0]
    robust = (target * model).sum(axis=1) + weight * (reward - modelled)
    share = weight / weight.sum()
    ratio = float((share * reward).sum())
    size = float(weight.sum() ** 2 / (weight**2).sum())
    return OffPolicy(
        ips=_estimate(weight * reward),
        snips=_estimate(len(action) * share * (reward - ratio) / (1.0 - share.clip(max=_MAX_SHARE)), ratio),
        dr=_estimate(robust),
        logged=_estimate(reward),
        difference=_estimate(robust - reward),
        decisions=len(action),
        effective_sample_size=size,
        warnings=(*_without_overlap(action, target, experts), *_small_sample(size)),
    )


def _estimate(values: np.ndarray, estimate: float | None = None) -> Interval:
    """Return an estimate with its 95% CI from influence values [T]; their mean, if none is given."""
    count, centred = len(values), values - values.mean()
    mean = float(values.mean()) if estimate is None else estimate
    variance = float((centred**2).mean())
    if variance == 0.0:
        return Interval(mean, mean, mean)
    kurtosis = float((centred**4).mean()) / variance**2
    freedom = 2.0 / (2.0 / (count - 1) + max(kurtosis - 3.0, 0.0) / count)
    margin = float(t.ppf(_LEVEL, freedom)) * (variance / (count - 1)) ** 0.5
    return Interval(mean, mean - margin, mean + margin)


def _without_overlap(action: np.ndarray, target: np.ndarray, experts: Sequence[str]) -> list[str]:
    """Return a warning for each expert that the target selects and the log never did."""
    never = np.bincount(action, minlength=len(experts)) == 0
    share = target.mean(axis=0, dtype=np.float64)
    return [
        f"the router sends {share[expert]:.1%} of the queries to {experts[expert]}, which the log never "
        "selected: its outcomes are unknown"
        for expert in map(int, np.flatnonzero(never & (share > 0)))
    ]


def _small_sample(size: float) -> list[str]:
    if size >= _MIN_SIZE:
        return []
    return [f"the effective sample size is {size:.0f}; below {_MIN_SIZE} the intervals are too narrow"]
