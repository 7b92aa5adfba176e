"""A linear router in place of one that does not fold, and what that costs on rows neither has seen."""

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
    """A linear router and how it does on the test rows.

    Attributes:
        router: it folds into stock gates.
        agreement: share of rows whose experts are the same set as the teacher's.
        utility: the teacher's and its own, means.
        lost: the teacher's utility less its own, with the paired 95% interval over rows.
        rows: test rows.
    """

    router: Router
    agreement: float
    utility: tuple[float, float]
    lost: Interval
    rows: int

    def to_json(self) -> dict[str, Any]:
        """The figures, without the router."""
        before, after = self.utility
        return {
            "agreement": self.agreement,
            "utility_before": before,
            "utility_after": after,
            "utility_lost": self.lost.mean,
            "utility_lost_ci95": [self.lost.low, self.lost.high],
            "test_rows": self.rows,
        }


def distil_for(router: Router, table: OutcomeTable, objective: Objective, scale: float) -> Distilled:
    """Fit a linear router to another's scores on training and validation rows; measure both on test rows.

    Args:
        router: the teacher, of features alone; `hard`, `topk` or `scored_topk` selection.
        table: of the pool it was trained on.
        objective: what utility is.
        scale: the unit of compute, in the table's cost unit.

    Raises:
        InputError: the router is linear already.
        RouterError: the table is another router's, or the router's form has no linear twin.
    """
    if router.scorer.linear_form() is not None:
        raise InputError("distil", True, "the router is linear already", "export it as it is")
    router.check_pool(table.experts, 0 if table.features is None else table.features.shape[1])
    assert table.features is not None
    test = table.part("test")
    assert test.features is not None
    seen = torch.tensor(table.features[table.split != "test"])
    unseen = torch.tensor(test.features)
    rows = torch.cat([seen, unseen])
    found = distil([router], [rows], bias=True, held_out=len(unseen) / len(rows))
    allowed = None if router.allowed is None else [bool(value) for value in router.allowed.tolist()]
    scorer = found.routers[0].scorer
    student = Router(scorer, router.rule, router.experts, fallback=router.fallback, allowed=allowed).eval()
    before, after = (measure(each, test, objective, scale) for each in (router, student))
    return Distilled(
        router=student,
        agreement=found.agreement[0],
        utility=(before.means()["utility"], after.means()["utility"]),
        lost=paired_difference(before.utility[None], after.utility[None]),
        rows=len(test),
    )
