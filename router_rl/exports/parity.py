"""Parity checks: an exported router or policy makes the decisions of the trained one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..routing import Policy, Router, RouterError, Routing, ScoredTopK

__all__ = [
    "Parity",
    "PolicyParity",
    "check_parity",
    "check_policy_parity",
    "check_text_parity",
    "one_masked",
    "parity_inputs",
    "synthetic_groups",
]

_TOLERANCE = 1e-4  # of float32 logits after folding, relative to the largest
_MAX_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The result of a parity check of a router.

    Attributes:
        rows: number of rows compared, including rows of zeros, NaN and infinities.
        index_agreement: share of rows whose experts agree, in order.
        ties: rows that disagree only because two scores differ by less than the tolerance.
        weights_max_error: largest absolute difference of the weights, on rows that agree.
        logits_max_error: largest absolute difference of the logits.
        tolerance: maximum of both errors.
    """

    rows: int
    index_agreement: float
    ties: int
    weights_max_error: float
    logits_max_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every row agrees (or ties) and the errors are within tolerance."""
        disagreeing = round((1.0 - self.index_agreement) * self.rows)
        within = max(self.weights_max_error, self.logits_max_error) <= self.tolerance
        return within and disagreeing <= self.ties

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `parity.json`."""
        return {**asdict(self), "passed": self.passed}


@dataclass(frozen=True, kw_only=True)
class PolicyParity:
    """The result of a parity check of a policy.

    Attributes:
        rows: observations compared.
        action_agreement: share of observations with equal actions.
    """

    rows: int
    action_agreement: float

    @property
    def passed(self) -> bool:
        """Whether all actions are equal."""
        return self.action_agreement == 1.0

    def to_json(self) -> dict[str, Any]:
        """Return the entry of `parity.json`."""
        return {**asdict(self), "passed": self.passed}


def parity_inputs(router: Router, features: Tensor | None, *, non_finite: bool = True) -> list[Tensor]:
    """Return inputs for a parity check: real or random rows, then rows of zeros, NaN and infinities.

    Args:
        router: the router that receives the inputs.
        features: [T, D] float32 real rows; None for random rows.
        non_finite: include NaN and infinities, for formats that guard against them.

    Returns:
        features [R, D] float32, and state [R, S] float32 if the router has state.
    """
    generator = torch.Generator().manual_seed(0)
    if features is None:
        features = torch.randn(1000, router.features, generator=generator)
    extra = torch.zeros(4 if non_finite else 1, router.features)
    if non_finite:
        extra[1, 0], extra[2, -1], extra[3, 0] = float("nan"), float("inf"), -float("inf")
    rows = torch.cat([features[:_MAX_ROWS].float().cpu(), extra])
    return [rows, *([] if not router.state else [_random_state(router, len(rows), generator)])]


def check_parity(
    router: Router,
    exported: Callable[..., Routing],
    inputs: list[Tensor],
    *,
    action_mask: Tensor | None = None,
) -> Parity:
    """Compare an exported router with the trained one.

    Args:
        router: the trained router.
        exported: the exported router; takes the inputs, and the mask as the keyword `action_mask`.
        inputs: features [R, D] float32, and state [R, S] float32 if the router has state.
        action_mask: [N] bool, True for experts that may be chosen; None calls both without a mask.

    Returns:
        the result, which passed.

    Raises:
        RouterError: they disagree beyond the tolerance; the message has the numbers.
    """
    mask = {} if action_mask is None else {"action_mask": action_mask}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = copy.deepcopy(router).cpu().eval()(*inputs, **mask)
        torch.manual_seed(0)  # a stochastic router draws the same in both
        actual = exported(*inputs, **mask)
    return _agreement(router, expected, actual)


def check_text_parity(
    router: Router, exported: Router, prompts: Sequence[str], groups: Sequence[str] | None
) -> Parity:
    """Compare an exported prompt router with the trained one on prompts.

    Args:
        router: the trained router.
        exported: the router loaded from the export, with its text pipeline.
        prompts: R texts.
        groups: the group of each prompt; None if the router does not read groups.

    Returns:
        the result, which passed.

    Raises:
        RouterError: they disagree beyond the tolerance, or the export has no text pipeline.
    """
    state = None
    if set(router.inputs) - {"prompt", "group"}:  # state that has no default and is not made from text
        state = _random_state(router, len(prompts), torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = copy.deepcopy(router).cpu().eval().route(prompts, groups, state)
        torch.manual_seed(0)
        actual = exported.route(prompts, groups, state)
    return _agreement(router, expected, actual)


def synthetic_groups(router: Router, rows: int) -> list[str] | None:
    """Return groups for synthetic prompts, one of them unknown; None if the router does not read groups.

    Args:
        router: a router with a text pipeline.
        rows: number of groups to return.
    """
    if router.text is None or "group" not in router.inputs:
        return None
    labels = [label for part in router.text.parts for label in getattr(part, "labels", ())]
    labels += [label for part in router.state for label in part.labels]
    return [["a group without rows", *labels][row % (len(labels) + 1)] for row in range(rows)]


def check_policy_parity(policy: Policy, exported: Policy, observations: Tensor) -> PolicyParity:
    """Compare the actions of an exported policy with those of the trained one.

    Args:
        policy: the trained policy.
        exported: the policy loaded from the export.
        observations: [R, O] float32.

    Returns:
        the result, which passed.

    Raises:
        RouterError: an action differs; the message has the numbers.
    """
    with torch.inference_mode():
        expected, actual = policy.act(observations), exported.act(observations)
    agree = (expected == actual).reshape(len(observations), -1).all(dim=1)
    parity = PolicyParity(rows=len(observations), action_agreement=float(agree.double().mean()))
    if not parity.passed:
        raise RouterError(f"the exported policy does not agree with the trained one: {parity.to_json()}")
    return parity


def _random_state(router: Router, rows: int, generator: torch.Generator) -> Tensor:
    return torch.rand(rows, router.state_size, generator=generator) / router.state_size


def _agreement(router: Router, expected: Routing, actual: Routing) -> Parity:
    """Compare two routings of the same rows."""
    # The logits of fallback rows and of experts that are never chosen are large constants: leave them out.
    logits = expected.logits[~expected.fallback]
    tolerance = _TOLERANCE * max([1.0, *logits[logits > -9e3].abs().tolist()])
    agree = (expected.experts == actual.experts).all(dim=1)
    tied = _tied(router.rule.ranking(expected.logits), expected, actual, tolerance)
    if isinstance(router.rule, ScoredTopK):
        tied |= router.rule.group_margin(expected.logits) <= 2 * tolerance
    parity = Parity(
        rows=len(agree),
        index_agreement=float(agree.double().mean()),
        ties=int((~agree & tied).sum()),
        weights_max_error=float((expected.weights - actual.weights)[agree].abs().max())
        if agree.any()
        else 0.0,
        logits_max_error=_largest_error(expected.logits, actual.logits),
        tolerance=tolerance,
    )
    if not parity.passed:
        raise RouterError(f"the exported router does not agree with the trained one: {parity.to_json()}")
    return parity


def _largest_error(expected: Tensor, actual: Tensor) -> float:
    """The largest difference of finite values; infinity if other values are non-finite."""
    finite = expected.isfinite()
    if not finite.equal(actual.isfinite()):
        return float("inf")
    return float((expected - actual)[finite].abs().max()) if finite.any() else 0.0


def _tied(ranking: Tensor, expected: Routing, actual: Routing, tolerance: float) -> Tensor:
    """Rows [T] whose chosen experts have, rank by rank, scores within twice the tolerance."""
    expected_scores = ranking.gather(1, expected.experts)
    actual_scores = ranking.gather(1, actual.experts)
    return ((expected_scores - actual_scores).abs() <= 2 * tolerance).all(dim=1)


def one_masked(router: Router, inputs: list[Tensor]) -> Tensor | None:
    """Return an action mask that excludes the most chosen expert; None if the router can choose no other.

    Args:
        router: any router.
        inputs: features [R, D] float32, and state [R, S] float32 if the router has state.

    Returns:
        [N] bool, False for the most chosen expert.
    """
    allowed = torch.ones(len(router.experts), dtype=torch.bool)
    if router.allowed is not None:
        allowed = router.allowed.cpu().clone()
    if int(allowed.sum()) < 2:
        return None
    with torch.no_grad():
        first = copy.deepcopy(router).cpu().eval()(*inputs).experts[:, 0]
    mask = torch.ones_like(allowed)
    mask[first.bincount(minlength=len(mask)).argmax()] = False
    return mask
