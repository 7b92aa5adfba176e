"""The gate as a module: the same answers as the router it comes from; what it refuses."""

from __future__ import annotations

import threading

import pytest
import torch

from router_rl.routing import Hard, RouterError, ScoredTopK, Soft, TopK
from router_rl.routing.kernels import Gate, GateRule, gather, naive, route, scatter_back, torch_path


@pytest.mark.parametrize(
    "rule",
    [
        Hard(),
        TopK(k=2),
        TopK(k=4),
        ScoredTopK(k=2, score="sigmoid", bias=(0.1, 0.0, -0.2, 0.3)),
        ScoredTopK(k=2, score="softmax"),
        ScoredTopK(k=2, score="softmax", bias=(0.0, 0.3, 0.0, 0.1)),
        ScoredTopK(k=1, score="sigmoid", groups=2, kept=1),
    ],
)
@pytest.mark.parametrize("allowed", [None, (True, False, True, True)])
def test_it_is_the_linear_router(make_router, rule, allowed):
    router = make_router(rule=rule, fallback=3, allowed=allowed)
    features = torch.randn(200, 5)
    features[7, 2], features[9, 0] = float("nan"), float("inf")
    with torch.inference_mode():
        expected, found = router(features), Gate.of(router)(features)
    works = expected.weights > 0  # the order of those that do not work is each's own where some are barred
    assert found.experts[works].equal(expected.experts[works])
    assert found.experts.equal(expected.experts) or allowed is not None
    assert found.fallback.equal(expected.fallback)
    torch.testing.assert_close(found.weights, expected.weights, atol=1e-6, rtol=1e-5)


def test_what_is_no_gate(make_router):
    with pytest.raises(RouterError, match="not this mlp one"):
        Gate.of(make_router("mlp", TopK(k=2)))
    with pytest.raises(RouterError, match="without state"):
        Gate.of(make_router(rule=TopK(k=2), stateful=True))
    with pytest.raises(RouterError, match="soft selection is not a gate's"):
        Gate.of(make_router(rule=Soft(k=4)))
    with pytest.raises(RouterError, match="by softmax or sigmoid"):
        Gate.of(make_router(rule=ScoredTopK(k=2, score="relu")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 0}, "GateRule.k=0 is not positive"),
        ({"k": 5}, "GateRule.k=5 exceeds the 4 experts"),
        ({"k": 1, "score": "relu"}, "use softmax or sigmoid"),
        ({"k": 1, "groups": 3}, "groups=3 does not divide 4"),
        ({"k": 3, "groups": 2}, "k=3 exceeds the 2 experts"),
        ({"k": 1, "groups": 2, "kept": 3}, "kept=3 exceeds groups=2"),
        ({"k": 1, "groups": 2, "judged_by": 3}, "judged_by=3 exceeds the 2"),
        ({"k": 1, "fallback": 4}, "fallback=4 is not an expert; use 0 to 3"),
        ({"k": 1, "scale": float("nan")}, "scale=nan is not a positive number"),
    ],
)
def test_rules_refused(settings, message):
    with pytest.raises(RouterError, match=message):
        Gate(5, 4, GateRule(**settings))


def test_inputs_refused():
    rule, weight = GateRule(k=1), torch.zeros(4, 5, requires_grad=True)
    for inputs, message in [
        ((torch.zeros(3, 6), weight), r"hidden \[3, 6\] must be \[T, H\]"),
        ((torch.zeros(3, 5), weight, torch.zeros(3)), r"bias must be \[4\], not \[3\]"),
        ((torch.zeros(3, 5), weight, None, None, torch.ones(4)), "alive must be bool"),
    ]:
        with pytest.raises(RouterError, match=message):
            route(*inputs, rule=rule)
    for changes, message in [({"ids": torch.int16}, "ids=torch.int16"), ({"path": "cuda"}, "path='cuda'")]:
        for learns in (True, False):
            with torch.set_grad_enabled(learns), pytest.raises(RouterError, match=message):
                route(torch.zeros(3, 5), weight, rule=rule, **changes)


@pytest.mark.parametrize(("rows", "k", "experts"), [(0, 2, 4), (1, 1, 1), (65, 3, 8), (300, 2, 37)])
def test_dispatch_and_back(rows, k, experts):
    ids = torch.rand(rows, experts).topk(k).indices
    weights, hidden = torch.rand(rows, k), torch.randn(rows, 6)
    found = torch_path.dispatch(ids, experts)
    for got, expected in zip(found, naive.dispatch(ids, experts), strict=True):
        assert got.equal(expected)
    assert int(found.counts.sum()) == rows * k
    inputs = gather(hidden, found)
    assert inputs.equal(naive.gather(hidden, found))
    assert ids.flatten()[found.order].diff().ge(0).all()  # by expert
    assert inputs[found.places].equal(hidden.unsqueeze(1).expand(-1, k, -1))  # and back
    outputs = torch.randn(rows * k, 6)
    torch.testing.assert_close(
        scatter_back(outputs, weights, found), naive.scatter_back(outputs, weights, found)
    )


def test_equal_calls_give_equal_bits_in_any_thread():
    gate = Gate(64, 32, GateRule(k=4, score="sigmoid", groups=4, kept=2), correction=True, dispatch=True)
    torch.nn.init.normal_(gate.weight)
    inputs = [torch.randn(rows, 64) for rows in (1, 7, 64, 300)]
    with torch.inference_mode():
        expected = [gate(x) for x in inputs]
    wrong: list[str] = []

    def work() -> None:
        with torch.inference_mode():
            for _ in range(10):
                for x, wanted in zip(inputs, expected, strict=True):
                    found = gate(x)
                    pairs = zip([*found[:4], *found.dispatch], [*wanted[:4], *wanted.dispatch], strict=True)
                    wrong.extend("differs" for a, b in pairs if not a.equal(b))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
