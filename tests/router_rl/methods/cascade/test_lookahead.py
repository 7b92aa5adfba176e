"""The lookahead asks where the value of information exceeds its margin, by hand."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from router_rl.methods.cascade.lookahead import MARGINS, Lookahead, candidates, gains_of
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.routing.policies.cascade_policy import CascadeView

ANSWER = 2  # the action of answering with the first of two experts
PRICE = torch.tensor([0.2, 0.5])


class _Same:
    """Beliefs that do not change with what was asked."""

    def current(self, prior: Tensor, posterior: Tensor, asked: Tensor, agree: Tensor) -> Tensor:
        return prior

    def settled(self, posterior: Tensor, asked: Tensor, agree: Tensor) -> Tensor:
        return posterior


def _policy(margin: float, *, pooled: bool = False) -> Lookahead:
    """One group of similar priors; expert b raises the probability to (1 + g) / 2 on average."""
    grid = torch.linspace(0.0, 1.0, 101)
    return Lookahead(
        beliefs=cast(Any, _Same()),
        price=PRICE,
        edges=torch.zeros(2, 0),
        reached=torch.stack([grid, (1.0 + grid) / 2.0]).unsqueeze(1),
        margin=margin,
        pooled=pooled,
    )


def _view(asked: list[bool], weight: float) -> CascadeView:
    """A query of two experts, of which some were asked; the other may be."""
    was = torch.tensor([asked])
    return CascadeView(
        features=torch.zeros(1, 1),
        asked=was,
        confidence=torch.zeros(1, 2),
        agree=torch.eye(2).unsqueeze(0),
        weight=torch.tensor([weight]),
        askable=~was,
    )


def _action(policy: Lookahead, view: CascadeView, likely: float) -> int:
    odds = torch.tensor([[math.log(likely / (1.0 - likely)), 0.0]])
    return int(policy.choose(view, torch.zeros(1, 2), odds))


@pytest.mark.parametrize(("margin", "action"), [(0.04, 1), (0.06, ANSWER), (-1.0, 1)])
def test_the_margin_is_what_the_gain_must_exceed(margin: float, action: int) -> None:
    # The first expert is right with probability 0.8: asking the second gains 0.9 - 0.1 * 0.5 - 0.8 = 0.05.
    assert _action(_policy(margin), _view([True, False], 0.1), 0.8) == action


def test_a_negative_margin_asks_at_a_loss() -> None:
    # 0.9 - 0.3 * 0.5 - 0.8 = -0.05.
    view = _view([True, False], 0.3)
    assert _action(_policy(0.0), view, 0.8) == ANSWER
    assert _action(_policy(-0.04), view, 0.8) == ANSWER
    assert _action(_policy(-0.06), view, 0.8) == 1


def test_no_margin_keeps_it_from_asking_somebody() -> None:
    # Nobody was asked: reached at 0 is 0 and 0.5; less the price 0.1 * (0.2, 0.5), the second is better.
    assert _action(_policy(10.0), _view([False, False], 0.1), 0.5) == 1


def test_every_margin_is_a_candidate_with_and_without_pooling(made: CascadeProblem) -> None:
    data = made.data(0)
    found = candidates(data)
    assert [(one.margin, one.pooled) for one in found] == [(m, p) for m in MARGINS for p in (False, True)]
    actions = []
    for one in found[::2]:
        fitted, view = data.fitted, _seen(data)
        actions.append(one.choose(view, fitted.prior, fitted.posterior) < len(data.experts))
    asks = [int(each.sum()) for each in actions]
    assert asks == sorted(asks, reverse=True)
    assert asks[0] > asks[-1]


def _seen(data: Any) -> CascadeView:
    """Every row, after the first expert was asked."""
    rows, experts = data.fitted.prior.shape
    asked = torch.zeros(rows, experts, dtype=torch.bool)
    asked[:, 0] = True
    view = _view([True, False], 0.1)
    return view._replace(
        features=data.table.outcomes.features,
        asked=asked,
        confidence=data.table.confidence,
        agree=torch.eye(experts).expand(rows, -1, -1),
        weight=torch.full((rows,), 0.1),
        askable=~asked,
    )


def test_what_an_answer_reaches_is_the_mean_of_the_larger_probability() -> None:
    posterior = torch.tensor([[0.2], [0.6]]).logit()
    edges, reached = gains_of(torch.zeros(2, 1), posterior)
    assert edges.shape == (1, 11)
    group = int(torch.searchsorted(edges[0], torch.zeros(1)))
    # E max(g, b) of b = 0.2 or 0.6: 0.4 at g = 0, (0.5 + 0.6) / 2 at g = 0.5, 1 at g = 1.
    torch.testing.assert_close(reached[0, group, [0, 50, 100]], torch.tensor([0.4, 0.55, 1.0]))
