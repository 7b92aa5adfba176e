from __future__ import annotations

import pytest
import torch

from router_rl.exports.transformers import distil, fold
from router_rl.routing import (
    AdaptiveK,
    Hard,
    LinearScorer,
    MLPScorer,
    Router,
    RouterError,
    ScoredTopK,
    StateInput,
    TopK,
)

NAMES = ["a", "b", "c", "d"]


def linear(rule: object, seed: int = 0) -> Router:
    torch.manual_seed(seed)
    scorer = LinearScorer(6, 4)
    with torch.no_grad():
        scorer.weight.normal_()
    return Router(scorer, rule, NAMES)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2), ScoredTopK(k=2, score="sigmoid")])
def test_a_linear_router_is_found_again(rule: object) -> None:
    teacher = linear(rule)
    found = distil([teacher], [torch.randn(2000, 6)], penalty=1e-9)
    assert found.agreement[0] > 0.995
    assert found.overlap[0] >= found.agreement[0]
    assert found.held_out == 500
    assert fold(found.routers[0]).bias is None


def test_the_price_is_measured_on_states_that_were_not_fitted_to() -> None:
    """A router that no linear one can imitate: which of two features is larger in magnitude."""

    class Folded(MLPScorer):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 5 * torch.stack([x[:, 0].abs(), x[:, 1].abs()], dim=1)

    teacher = Router(Folded(2, 2), Hard(), ["a", "b"])
    states = torch.randn(4000, 2)
    truth = states.abs()

    def utility(routers: object) -> float:
        return float(truth.gather(1, routers[0](states).experts).mean())  # type: ignore[index]

    found = distil([teacher], [states], measure=utility)
    assert found.agreement[0] == pytest.approx(0.5, abs=0.05)
    assert found.overlap == found.agreement  # one expert a state
    assert found.lost is not None
    assert found.lost < -0.2
    told = found.to_json()
    assert told["lost"] == found.after - found.before
    assert "routers" not in told


def test_agreement_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two states held out: on one both experts are the same in another order, on one a single expert."""
    teacher = linear(TopK(k=2))
    states = torch.randn(8, 6)
    found = distil([teacher], [states], held_out=0.25, steps=1)
    student = found.routers[0]
    sets = [
        len(
            set(teacher(states[at : at + 1]).experts[0].tolist())
            & set(student(states[at : at + 1]).experts[0].tolist())
        )
        for at in (6, 7)
    ]
    assert found.held_out == 2
    assert found.agreement[0] == sum(same == 2 for same in sets) / 2
    assert found.overlap[0] == sum(sets) / 4


def test_a_state_is_left_to_fit_however_many_are_held_out() -> None:
    found = distil([linear(Hard())], [torch.randn(4, 6)], held_out=0.99)
    assert found.held_out == 3
    assert found.routers[0].scorer.get_parameter("weight").isfinite().all()


def test_a_bias_is_fitted_where_the_gate_has_one() -> None:
    teacher = linear(Hard())
    with torch.no_grad():
        teacher.scorer.bias.copy_(torch.tensor([0.0, 3.0, -3.0, 1.0]))
    states = torch.randn(2000, 6)
    without, given = (
        distil([teacher], [states], bias=bias, penalty=1e-9).agreement[0] for bias in (False, True)
    )
    assert given > 0.99 > without


def test_what_cannot_be_distilled() -> None:
    states = torch.randn(10, 6)

    def refused(message: str, router: Router, **options: float) -> None:
        with pytest.raises(RouterError, match=message):
            distil([router], [states], **options)  # type: ignore[arg-type]

    refused("do not support adaptive_k selection", Router(LinearScorer(6, 5), AdaptiveK(k=2), NAMES))
    refused("with state", Router(LinearScorer(10, 4), Hard(), NAMES, state=[StateInput("load", 4, "shares")]))
    refused(r"give \[T, 7\]", Router(LinearScorer(7, 4), Hard(), NAMES))
    refused("held_out=1.0 is not a fraction", linear(Hard()), held_out=1.0)
    with pytest.raises(RouterError, match="1 routers but hidden states of 0 layers"):
        distil([linear(Hard())], [])
