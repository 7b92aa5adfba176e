"""Distill a router that cannot be folded into a linear one, and measure the loss in utility on test rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from experts import InputError, OutcomeTable

from ..exports.transformers.distil import distil
from ..problems.objective import Objective
from ..problems.routing.router_measurement import measure
from ..problems.statistics import Interval, paired_difference
from ..routing import Router

__all__ = ["Distilled", "distil_for"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Distilled:
    """A linear router and its comparison with the teacher on the test rows.

    Attributes:
        router: the linear router, which can be folded into stock gates.
        agreement: fraction of rows on which both select the same experts.
        utility: mean utility of the teacher and of the linear router.
        lost: utility of the teacher minus that of the linear router, with the paired 95% CI over rows.
        rows: number of test rows.
    """

    router: Router
    agreement: float
    utility: tuple[float, float]
    lost: Interval
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers, without the router, as JSON."""
        before, after = self.utility
        return {
            "agreement": self.agreement,
            "utility_before": before,
            "utility_after": after,
            "utility_lost": self.lost.mean,
            "utility_lost_ci95": [self.lost.low, self.lost.high],
            "test_rows": self.rows,
        }


def distil_for(
    router: Router, table: OutcomeTable, objective: Objective, scale: float, *, bias: bool = True
) -> Distilled:
    """Fit a linear router to another's scores on training and validation rows; evaluate both on test rows.

    Args:
        router: the teacher, without state inputs; `hard`, `topk` or `scored_topk` selection.
        table: outcome table of the pool it was trained on.
        objective: defines the utility.
        scale: unit of compute, in the table's cost unit.
        bias: give the linear router a bias, which most stock gates lack.

    Raises:
        InputError: the router is already linear, and has no bias that must go.
        RouterError: the table has other experts or features, or the router cannot be approximated linearly.
    """
    linear = router.scorer.linear_form()
    if linear is not None and (bias or not linear.bias.any()):
        raise InputError("distil", True, "the router is already linear", "export it as it is")
    router.check_pool(table.experts, 0 if table.features is None else table.features.shape[1])
    assert table.features is not None
    test = table.part("test")
    assert test.features is not None
    fitted = torch.tensor(table.features[table.split != "test"])
    held_out = torch.tensor(test.features)
    rows = torch.cat([fitted, held_out])
    distilled = distil([router], [rows], bias=bias, held_out=len(held_out) / len(rows))
    allowed = None if router.allowed is None else [bool(value) for value in router.allowed.tolist()]
    scorer = distilled.routers[0].scorer
    student = Router(scorer, router.rule, router.experts, fallback=router.fallback, allowed=allowed).eval()
    before, after = (measure(each, test, objective, scale) for each in (router, student))
    return Distilled(
        router=student,
        agreement=distilled.agreement[0],
        utility=(before.means()["utility"], after.means()["utility"]),
        lost=paired_difference(before.utility[None], after.utility[None]),
        rows=len(test),
    )
