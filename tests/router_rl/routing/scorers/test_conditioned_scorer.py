"""A conditioned router folds to the plain one that it is, at any condition, and says so when it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from router_rl.exports import export
from router_rl.routing import (
    ConditionedScorer,
    Hard,
    LinearScorer,
    MLPScorer,
    Router,
    RouterError,
    StateInput,
    load,
)

NAMES = ("red", "green", "blue")
WEIGHT = StateInput("compute_weight", 1, "the compute weight")
LOAD = StateInput("load_weight", 1, "the load weight")


def conditioned(hidden: tuple[int, ...], conditions: int = 1) -> Router:
    scorer = ConditionedScorer(5 + conditions, 3, hidden, [(0.01, 0.8), (0.1, 0.4)][:conditions])
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter)
    scorer.shift.normal_(3.0)
    scorer.scale.uniform_(0.1, 5.0)
    return Router(scorer, Hard(), NAMES, state=(WEIGHT, LOAD)[:conditions], fallback=1).eval()


@pytest.mark.parametrize("hidden", [(), (16,), (8, 8)])
@pytest.mark.parametrize("weight", [0.001, 0.01, 0.1, 0.8, 5.0])
def test_folding_changes_no_logit(hidden: tuple[int, ...], weight: float) -> None:
    router = conditioned(hidden)
    plain = router.at(compute_weight=weight)
    assert isinstance(plain.scorer, MLPScorer if hidden else LinearScorer)
    assert plain.state == ()
    x = 3.0 + torch.randn(512, 5)
    with torch.inference_mode():
        wanted = router(x, torch.full((512, 1), weight))
        found, folded = plain(x), plain.folded()(x)
    largest = float(wanted.logits.abs().max())
    torch.testing.assert_close(found.logits, wanted.logits, rtol=0, atol=4e-6 * largest)
    torch.testing.assert_close(folded.logits, wanted.logits, rtol=0, atol=2e-5 * largest)
    assert found.experts.equal(wanted.experts)
    assert plain.fallback == 1


def test_the_fold_is_worked_in_float64_and_rounded_once() -> None:
    router = conditioned((16,))
    scorer, plain = router.scorer, router.at(compute_weight=0.1).scorer
    assert isinstance(scorer, ConditionedScorer)
    wide = scorer.encode(torch.tensor([[0.1]], dtype=torch.float64))
    gain, offset = (wide @ scorer.film.weight.double().T + scorer.film.bias.double())[0].chunk(2)
    first = scorer.layers[0]
    weight = ((1.0 + gain).unsqueeze(1) * first.get_parameter("weight").double()).float()
    bias = ((1.0 + gain) * first.get_parameter("bias").double() + offset).float()
    assert plain.get_parameter("layers.0.weight").equal(weight)
    assert plain.get_parameter("layers.0.bias").equal(bias)


def test_every_row_may_have_its_own_weights() -> None:
    router = conditioned((16,), conditions=2)
    x, state = torch.randn(3, 5), torch.tensor([[0.02, 0.2], [0.1, 0.4], [0.4, 0.1]])
    together = router(x, state).logits
    for row, (compute, charge) in enumerate(state.tolist()):
        alone = router.at(compute_weight=compute, load_weight=charge)(x[row : row + 1]).logits
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-4)


def test_untrained_conditions_change_nothing() -> None:
    scorer = ConditionedScorer(6, 3, (8,), [(0.01, 0.8)])
    x = torch.randn(4, 6)
    other = torch.cat([x[:, :5], torch.full((4, 1), 0.7)], dim=1)
    assert scorer(x).equal(scorer(other))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2"])
@pytest.mark.parametrize("hidden", [(), (16,)])
def test_exports_with_the_weight_as_its_input(tmp_path: Path, format: str, hidden: tuple[int, ...]) -> None:
    router = conditioned(hidden)
    assert export(router, tmp_path / "router", format=format).passed
    if format == "safetensors":
        kept = load(tmp_path / "router")
        assert [part.name for part in kept.state] == ["compute_weight"]
        x = torch.randn(8, 5)
        torch.testing.assert_close(
            kept.at(compute_weight=0.2)(x).logits,
            router.at(compute_weight=0.2)(x).logits,
            rtol=1e-4,
            atol=1e-3,
        )


def test_what_cannot_be_folded_is_refused() -> None:
    with pytest.raises(RouterError, match="no input of this router can be fixed"):
        Router(LinearScorer(5, 3), Hard(), NAMES).at(compute_weight=0.1)
    with pytest.raises(RouterError, match="conditions are compute_weight, not load_weight"):
        conditioned(()).at(load_weight=0.1)
    with pytest.raises(RouterError, match="not nothing"):
        conditioned(()).at()
    with pytest.raises(RouterError, match="0 < lowest < highest"):
        ConditionedScorer(6, 3, (), [(0.0, 1.0)])
