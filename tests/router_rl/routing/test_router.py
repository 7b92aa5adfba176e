from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from router_rl.routing import Hard, LinearScorer, MLPScorer, Router, RouterError, StateInput, TopK

RULES = [Hard(), TopK(k=2), TopK(k=4)]
KINDS = ["linear", "mlp"]


def state_for(router, rows):
    return torch.rand(rows, router.state_size) if router.state else None


def expected_fallback(router, rows):
    logits = torch.full((rows, 4), -1e4)
    logits[:, router.fallback] = 0.0
    return logits


@pytest.mark.parametrize("rows", [0, 1, 2, 17])
@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}{rule.k}")
@pytest.mark.parametrize("kind", KINDS)
def test_routes_batches_of_every_size(make_router, kind, rule, stateful, rows):
    router = make_router(kind, rule, stateful=stateful)
    features, state = torch.randn(rows, 5), None
    inputs = features
    if stateful:
        state = torch.rand(rows, 4)
        inputs = torch.cat([features, state], dim=1)
    routing = router(features, state)
    assert routing.logits.equal(router.scorer(inputs))
    assert routing.experts.equal(rule.select(routing.logits).experts)
    assert routing.weights.equal(rule.select(routing.logits).weights)
    assert routing.experts.shape == routing.weights.shape == (rows, rule.k)
    assert (routing.experts.dtype, routing.weights.dtype) == (torch.int64, torch.float32)
    assert routing.logits.shape == (rows, 4)
    assert routing.fallback.tolist() == [False] * rows
    for row in range(rows):
        alone = router(features[row : row + 1], None if state is None else state[row : row + 1])
        assert alone.experts.equal(routing.experts[row : row + 1])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.name}{rule.k}")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_take_the_fallback(make_router, kind, rule, odd):
    router = make_router(kind, rule, fallback=2)
    features = torch.randn(6, 5)
    good = router(features)
    features[1, 0] = features[4, 4] = odd
    routing = router(features)
    assert routing.fallback.tolist() == [False, True, False, False, True, False]
    assert routing.logits[routing.fallback].equal(expected_fallback(router, 2))
    assert (routing.experts[routing.fallback, 0] == 2).all()
    assert routing.weights.isfinite().all()
    torch.testing.assert_close(routing.weights.sum(dim=1), torch.ones(6))
    assert all(len(set(row)) == rule.k for row in routing.experts.tolist())
    assert routing.experts[~routing.fallback].equal(good.experts[~routing.fallback])
    assert routing.logits[~routing.fallback].equal(good.logits[~routing.fallback])


def test_state_that_is_not_finite_takes_the_fallback(make_router):
    router = make_router(stateful=True, fallback=3)
    state = torch.rand(3, 4)
    state[1, 2] = math.nan
    routing = router(torch.randn(3, 5), state)
    assert routing.fallback.tolist() == [False, True, False]
    assert routing.experts[1].tolist() == [3]


def test_scores_that_overflow_take_the_fallback():
    scorer = LinearScorer(2, 3)
    with torch.no_grad():
        scorer.weight.copy_(torch.tensor([[3e38, 0.0], [3e38, -3e38], [0.0, 1.0]]))
    router = Router(scorer, Hard(), ("a", "b", "c"), fallback=1)
    routing = router(torch.tensor([[2.0, 0.0], [2.0, 2.0], [0.5, 0.5]]))  # inf, inf - inf, finite
    assert routing.fallback.tolist() == [True, True, False]
    assert routing.experts.tolist() == [[1], [1], [0]]


def test_float64_features_beyond_float32_take_the_fallback():
    scorer = MLPScorer(2, 3, hidden=(4,))
    with torch.no_grad():
        scorer.layers[0].weight.fill_(-1.0)  # ReLU would turn minus infinity into a harmless 0
    router = Router(scorer, Hard(), ("a", "b", "c"), fallback=1)
    routing = router(torch.tensor([[1e300, 0.0], [1.0, 0.0]], dtype=torch.float64))
    assert routing.fallback.tolist() == [True, False]


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)], ids=["hard", "topk2"])
def test_a_fallback_row_keeps_to_the_mask(make_router, rule):
    router = make_router(rule=rule, fallback=2)
    features = torch.full((3, 5), math.nan)
    routing = router(features, action_mask=torch.tensor([False, True, False, True]))
    assert routing.fallback.all()
    assert routing.experts.tolist() == [[1, 3][: rule.k]] * 3
    torch.testing.assert_close(routing.weights.sum(dim=1), torch.ones(3))


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)], ids=["hard", "topk2"])
def test_masks_for_all_rows_and_for_each(make_router, rule, stochastic):
    router = make_router(rule=rule, stochastic=stochastic)
    features = torch.randn(40, 5)
    for mask in (torch.tensor([True, False, True, False]), torch.rand(40, 4).argsort(dim=1) < 2):
        routing = router(features, action_mask=mask)
        allowed = mask.expand(40, 4)
        assert allowed.gather(1, routing.experts).all()
        assert routing.logits.isfinite().equal(allowed)
        assert not routing.fallback.any()
        unmasked, _ = router.logits(features)
        assert routing.logits[allowed].equal(unmasked[allowed])
    everything = torch.ones(4, dtype=torch.bool)
    assert router(features, action_mask=everything).logits.equal(router(features).logits)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(3, dtype=torch.bool),
        torch.ones(6, dtype=torch.bool),
        torch.ones(6, 1, dtype=torch.bool),
        torch.ones(5, 4, dtype=torch.bool),
        torch.ones(1, 4, dtype=torch.bool),
        torch.ones(1, 6, 4, dtype=torch.bool),
        torch.ones(4),
        torch.ones(6, 4, dtype=torch.int64),
    ],
    ids=lambda mask: f"{list(mask.shape)}-{mask.dtype}",
)
def test_a_mask_that_does_not_fit_is_refused(make_router, mask):
    with pytest.raises(RouterError, match=r"action_mask must be bool \[4\] or \[6, 4\], not"):
        make_router()(torch.randn(6, 5), action_mask=mask)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 6), (1, 3, 5)])
def test_features_that_do_not_fit_are_refused(make_router, shape):
    with pytest.raises(RouterError, match=r"features must be \[T, 5\], not \[" + str(shape[0])):
        make_router()(torch.zeros(shape))


def test_a_state_is_required_exactly_when_it_is_declared(make_router):
    features = torch.zeros(3, 5)
    router = make_router(stateful=True)
    assert router.state_size == 4
    assert router.features == 5
    for state in (None, torch.zeros(3, 3), torch.zeros(4), torch.zeros(2, 4), torch.zeros(1, 4)):
        with pytest.raises(RouterError, match=r"state must be \[3, 4\] holding load \(4\), not "):
            router(features, state)
    with pytest.raises(RouterError, match="takes no state; call it with features alone"):
        make_router()(features, torch.zeros(3, 4))


def test_check_pool_names_both_sides(make_router):
    router = make_router()
    router.check_pool(["small", "medium", "large", "code"], 5)
    with pytest.raises(RouterError, match=r"small, medium, large, code but the table has small, large; use"):
        router.check_pool(["small", "large"], 5)
    with pytest.raises(RouterError, match=r"small, medium, large, code but .* medium, small, large, code"):
        router.check_pool(["medium", "small", "large", "code"], 5)
    with pytest.raises(RouterError, match="takes 5 features but the table has 7"):
        router.check_pool(["small", "medium", "large", "code"], 7)


def test_parts_that_do_not_fit_each_other_are_refused():
    names = ("a", "b", "c")
    with pytest.raises(RouterError, match="scorer has 2 outputs but there are 3 experts"):
        Router(LinearScorer(4, 2), Hard(), names)
    with pytest.raises(RouterError, match="takes 4 inputs, fewer than its state's 5"):
        Router(LinearScorer(4, 3), Hard(), names, state=[StateInput("load", 5, "counts")])
    for fallback in (-1, 3):
        with pytest.raises(RouterError, match=f"fallback={fallback} is not an expert; use 0 to 2"):
            Router(LinearScorer(4, 3), Hard(), names, fallback=fallback)
    with pytest.raises(RouterError, match=r"TopK\.k=4 exceeds 3 experts; use 1 to 3"):
        Router(LinearScorer(4, 3), TopK(k=4), names)


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)], ids=["hard", "topk2"])
def test_a_stochastic_router_draws_from_its_policy(make_router, rule):
    router = make_router("constant", rule, stochastic=True, fallback=1)
    features = torch.zeros(20_000, 5)
    routing = router(features)
    first = torch.bincount(routing.experts[:, 0], minlength=4)
    expected = 20_000 * router.scorer.logits.double().softmax(dim=0)
    assert stats.chisquare(first.numpy(), expected.numpy()).pvalue > 1e-3
    assert routing.weights.equal(rule.weigh(routing.logits, routing.experts))
    assert not router(features).experts.equal(routing.experts)
    torch.manual_seed(0)
    assert router(features).experts.equal(routing.experts)
    odd = router(torch.full((200, 5), math.nan))
    assert (odd.experts[:, 0] == 1).all()


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("kind", ["linear", "mlp", "constant"])
def test_folded_routes_alike(make_router, kind, stateful):
    router = make_router(kind, TopK(k=2), stateful=stateful, fallback=3, stochastic=kind == "constant")
    folded = router.folded()
    assert folded.spec() == router.spec()
    features, state = torch.randn(30, 5), state_for(router, 30)
    found, expected = folded.logits(features, state)[0], router.logits(features, state)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
