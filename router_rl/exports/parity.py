"""Does an exported router give the answers of the router that was trained?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..routing import Router, RouterError, Routing, ScoredTopK

__all__ = ["Parity", "check_parity", "one_dead", "parity_rows"]

_TOLERANCE = 1e-4  # of float32 logits after folding, relative to the largest
_MOST_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Parity:
    """What a parity check found.

    Attributes:
        rows: rows compared, with rows of zeros, NaN and infinities among them.
        index_agreement: share of rows whose experts agree, in order.
        ties: rows that disagree only where two scores differ by less than the tolerance.
        weights_max_error: largest absolute difference of the weights on rows that agree.
        logits_max_error: largest absolute difference of the logits.
        tolerance: allowed for the two errors.
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
        """As written to `parity.json`."""
        return {**asdict(self), "passed": self.passed}


def parity_rows(router: Router, features: Tensor | None, *, odd: bool = True) -> list[Tensor]:
    """Inputs to compare on: real rows if given, else made ones; then zeros, NaN and infinities.

    Args:
        router: whose inputs they are.
        features: [T, D] float32 real rows, or None.
        odd: whether NaN and infinities are among them: for formats that guard against them.
    """
    generator = torch.Generator().manual_seed(0)
    if features is None:
        features = torch.randn(1000, router.features, generator=generator)
    extra = torch.zeros(4 if odd else 1, router.features)
    if odd:
        extra[1, 0], extra[2, -1], extra[3, 0] = float("nan"), float("inf"), -float("inf")
    inputs = [torch.cat([features[:_MOST_ROWS].float().cpu(), extra])]
    if router.state:
        inputs.append(torch.rand(len(inputs[0]), router.state_size, generator=generator) / router.state_size)
    return inputs


def check_parity(
    router: Router,
    exported: Callable[..., Routing],
    inputs: list[Tensor],
    *,
    action_mask: Tensor | None = None,
) -> Parity:
    """Compare an exported router with the trained one.

    Args:
        router: the trained one.
        exported: takes the inputs, and the mask by its name.
        inputs: features, and state where the router has one.
        action_mask: [N] bool, the experts that are alive; None: the exported one is called without a mask.

    Raises:
        RouterError: they disagree beyond tolerance; the message holds the figures.
    """
    mask = {} if action_mask is None else {"action_mask": action_mask}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = copy.deepcopy(router).cpu().eval()(*inputs, **mask)
        torch.manual_seed(0)  # a stochastic router draws alike in both
        found = exported(*inputs, **mask)
    usual = expected.logits[~expected.fallback]  # fallback rows hold a large constant,
    usual = usual[usual > -9e3].abs().tolist()  # as do experts that are never chosen
    tolerance = _TOLERANCE * max([1.0, *usual])
    agree = (expected.experts == found.experts).all(dim=1)
    tied = _tied(router.rule.ranking(expected.logits), expected, found, tolerance)
    if isinstance(router.rule, ScoredTopK):
        tied |= router.rule.group_margin(expected.logits) <= 2 * tolerance
    parity = Parity(
        rows=len(agree),
        index_agreement=float(agree.double().mean()),
        ties=int((~agree & tied).sum()),
        weights_max_error=float((expected.weights - found.weights)[agree].abs().max())
        if agree.any()
        else 0.0,
        logits_max_error=_largest_error(expected.logits, found.logits),
        tolerance=tolerance,
    )
    if not parity.passed:
        raise RouterError(f"the exported router does not agree with the trained one: {parity.to_json()}")
    return parity


def _largest_error(expected: Tensor, found: Tensor) -> float:
    """Of the finite ones; minus infinity, where a mask is, must stand in the same places."""
    finite = expected.isfinite()
    if not finite.equal(found.isfinite()):
        return float("inf")
    return float((expected - found)[finite].abs().max()) if finite.any() else 0.0


def _tied(ranking: Tensor, expected: Routing, found: Routing, tolerance: float) -> Tensor:
    """Rows [T] whose chosen experts have, place by place, rankings within twice the tolerance."""
    wanted = ranking.gather(1, expected.experts)
    got = ranking.gather(1, found.experts)
    return ((wanted - got).abs() <= 2 * tolerance).all(dim=1)


def one_dead(router: Router, inputs: list[Tensor]) -> Tensor | None:
    """A mask [N] without the expert that is chosen most; None for a router that could choose no other."""
    may_be = torch.ones(len(router.experts), dtype=torch.bool)
    if router.allowed is not None:
        may_be = router.allowed.cpu().clone()
    if int(may_be.sum()) < 2:
        return None
    with torch.no_grad():
        first = copy.deepcopy(router).cpu().eval()(*inputs).experts[:, 0]
    mask = torch.ones_like(may_be)
    mask[first.bincount(minlength=len(mask)).argmax()] = False
    return mask
