from __future__ import annotations

import pytest
import torch

from router_rl.exports.transformers import Gate, fold
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

NAMES = ["a", "b", "c"]


def scorer(inputs: int = 5, outputs: int = 3) -> LinearScorer:
    made = LinearScorer(inputs, outputs)
    with torch.no_grad():
        made.weight.normal_()
        made.bias.normal_()
        made.shift.normal_()
        made.scale.uniform_(0.5, 2.0)
    return made


def logits(gate: Gate, x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.linear(x, gate.weight, gate.bias)


def test_standardisation_gain_and_temperature_fold_exactly() -> None:
    router = Router(scorer(), Hard(), NAMES)
    x, gain = torch.randn(50, 5), torch.rand(5) + 0.1
    gate = fold(router, gain=gain, temperature=2.5)
    torch.testing.assert_close(logits(gate, x), router(x * gain).logits / 2.5, atol=1e-6, rtol=1e-5)
    assert (gate.k, gate.score, gate.selection_bias) == (1, "softmax", None)


def test_weights_and_biases() -> None:
    weight, bias = torch.randn(3, 5), torch.randn(3)
    gate = fold((weight, None), temperature=2.0)
    assert gate.weight.equal(weight / 2)
    assert gate.bias is None
    assert gate.k is None
    gate = fold((weight.bfloat16(), bias.double()))
    assert gate.weight.dtype == gate.bias.dtype == torch.float32
    with pytest.raises(RouterError, match=r"must be \[E, H\] and \[E\]"):
        fold((weight, torch.zeros(5)))
    with pytest.raises(RouterError, match="temperature=0"):
        fold((weight, None), temperature=0.0)
    with pytest.raises(RouterError, match="gain is"):
        fold((weight, None), gain=torch.ones(3))
    with pytest.raises(RouterError, match="not finite"):
        fold((weight, None), gain=torch.tensor([1.0, float("inf"), 1, 1, 1]))


def test_rules_that_a_stock_gate_has() -> None:
    assert fold(Router(scorer(), TopK(k=2), NAMES)).k == 2
    gate = fold(Router(scorer(), ScoredTopK(k=2, score="sigmoid", bias=(0.0, 0.5, -0.5)), NAMES))
    assert gate.score == "sigmoid"
    assert gate.selection_bias is not None
    assert gate.selection_bias.tolist() == [0.0, 0.5, -0.5]
    grouped = ScoredTopK(k=2, groups=2, kept=1)
    gate = fold(Router(scorer(outputs=4), grouped, ["a", "b", "c", "d"]))
    assert (gate.groups, gate.kept, gate.selection_bias) == (2, 1, None)


@pytest.mark.parametrize(
    ("router", "what"),
    [
        (Router(MLPScorer(5, 3), TopK(k=2), NAMES), "a MLPScorer does not fold"),
        (Router(scorer(outputs=4), AdaptiveK(k=2), NAMES), "adaptive_k selection does not fold"),
        (Router(scorer(), ScoredTopK(score="relu"), NAMES), "scored_topk selection does not fold"),
        (Router(scorer(), Hard(), NAMES, stochastic=True), "a stochastic router does not fold"),
        (Router(scorer(), Hard(), NAMES, allowed=[True, True, False]), "excludes experts does not fold"),
        (
            Router(scorer(), Hard(), NAMES, state=[StateInput("load", 3, "shares")]),
            "with the extra inputs load does not fold",
        ),
        (
            Router(scorer(outputs=4), ScoredTopK(groups=2, kept=1, judged_by=1), [*NAMES, "d"]),
            "ranks groups by their best 1 experts",
        ),
    ],
)
def test_everything_else_is_refused(router: Router, what: str) -> None:
    with pytest.raises(RouterError, match=f"{what}.*distil it"):
        fold(router)
