"""Every scorer keeps the contract of its hooks; no other file asks which class a scorer is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import router_rl
from router_rl.routing import SCORERS, Hard, Router, RouterError, Scorer
from router_rl.routing.scorers.registry import scorer_from_spec

D, N = 5, 3
SPECS: dict[str, dict[str, object]] = {
    "linear": {"inputs": D},
    "mlp": {"inputs": D, "hidden": [4]},
    "constant": {"inputs": D},
    "conditioned": {"inputs": D + 1, "hidden": [4], "ranges": [[0.01, 1.0]]},
    "priced": {"inputs": D + 1, "ranges": [[0.01, 1.0]]},
    "knn": {"inputs": D, "rows": 7, "neighbours": 2},
    "guarded_knn": {"inputs": D, "rows": 7, "neighbours": 3, "default": 1, "critical": 0.5},
    "kernel": {"inputs": D, "rows": 7, "components": 3, "neighbours": 2, "factor": 0.5},
    "trees": {"inputs": D, "trees": 3, "depth": 2},
    "lookup": {"inputs": D, "groups": 4},
    "residual": {
        "inputs": D,
        "base": {"kind": "linear", "inputs": D, "experts": N},
        "hidden": [4],
        "inverse_temperature": 2.0,
    },
    "hash": {"inputs": D},
    "queue": {
        "inputs": D + 3 * N + 6,
        "service": [1.0, 2.0, 3.0],
        "batch_service": [1.0, 2.0, 3.0],
        "replicas": [1, 1, 2],
        "gap": 1.0,
        "repair": 5.0,
    },
    "servers": {
        "inputs": D + 7 * N + 8,
        **{name: [1.0, 2.0, 3.0] for name in ("service", "drain", "seats", "first", "prompt")},
        **{name: [0.01, 0.02, 0.03] for name in ("prompt_s", "token_s", "full_token_s", "need")},
        "refill_s": [0.0, 10.0, 0.0],
        "gap": 1.0,
        "repair": 5.0,
    },
}


def made(kind: str) -> Scorer:
    scorer = scorer_from_spec({"kind": kind, "experts": N, **SPECS[kind]})
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.normal_()
        if kind in ("queue", "servers"):
            scorer.weights.normal_()  # type: ignore[operator, union-attr]
    return scorer


def test_every_scorer_is_here() -> None:
    assert set(SPECS) == set(SCORERS)
    assert all(scorer.kind == name for name, scorer in SCORERS.items())


@pytest.mark.parametrize("kind", list(SPECS))
def test_a_scorer_comes_back_from_its_description(kind: str) -> None:
    scorer = made(kind)
    again = scorer_from_spec(json.loads(json.dumps(scorer.spec())))
    assert type(again) is type(scorer)
    again.load_state_dict(scorer.state_dict())
    x = torch.rand(6, scorer.inputs)
    assert again(x).equal(scorer(x))
    assert scorer(x).shape == (6, N)


@pytest.mark.parametrize("kind", list(SPECS))
def test_standardising_and_folding(kind: str) -> None:
    scorer = made(kind)
    x = torch.rand(6, scorer.inputs)
    before = scorer(x).clone()
    shift, scale = torch.rand(scorer.inputs), 0.5 + torch.rand(scorer.inputs)
    scorer.standardise(shift, scale)
    after = scorer(x)
    assert scorer.standardises == (not after.equal(before))
    torch.testing.assert_close(scorer.folded()(x), after, atol=1e-4, rtol=1e-4)
    if scorer.standardises:
        moved = x.clone()
        moved[:, :D] = (x[:, :D] - shift[:D]) * scale[:D]  # features alone; state of these four is not
        scorer.standardise(torch.zeros(scorer.inputs), torch.ones(scorer.inputs))
        torch.testing.assert_close(scorer(moved), after, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", list(SPECS))
def test_conditions_and_prices(kind: str) -> None:
    scorer = made(kind)
    if scorer.ranges:
        plain = scorer.at([0.1])
        x = torch.rand(6, D)
        expected = scorer(torch.cat([x, torch.full((6, 1), 0.1)], dim=1))
        torch.testing.assert_close(plain(x), expected, atol=1e-4, rtol=1e-4)
        assert not plain.ranges
    else:
        with pytest.raises(RouterError, match="no input of this router can be fixed"):
            scorer.at([0.1])
    if scorer.repriceable:
        x = torch.rand(6, scorer.inputs)
        assert not scorer.repriced([1.0, 2.0, 4.0])(x).equal(scorer(x))
    else:
        with pytest.raises(RouterError, match="prices are not inputs of this router"):
            scorer.repriced([1.0, 2.0, 4.0])


@pytest.mark.parametrize("kind", list(SPECS))
def test_the_output_bias_adds_to_each_logit(kind: str) -> None:
    scorer = made(kind)
    bias = scorer.output_bias()
    if bias is None:
        assert kind not in ("linear", "mlp", "constant", "trees", "residual")
        return
    x, offset = torch.rand(6, scorer.inputs), torch.tensor([0.5, -1.0, 2.0])
    before = scorer(x).clone()
    with torch.no_grad():
        bias += offset
    torch.testing.assert_close(scorer(x), before + offset)


@pytest.mark.parametrize("kind", list(SPECS))
def test_the_linear_form_is_the_scorer(kind: str) -> None:
    scorer = made(kind)
    scorer.standardise(torch.rand(scorer.inputs), 0.5 + torch.rand(scorer.inputs))
    form = scorer.linear_form()
    if form is None:
        assert kind != "linear"
        return
    x = torch.rand(6, scorer.inputs)
    torch.testing.assert_close(x @ form.weight.T + form.bias, scorer(x), atol=1e-4, rtol=1e-4)
    assert not form.weight.requires_grad


@pytest.mark.parametrize("kind", list(SPECS))
def test_what_is_not_finite_reaches_the_fallback(kind: str) -> None:
    scorer = made(kind)
    for place in range(scorer.inputs):
        for value in (float("nan"), float("inf")):
            x = torch.rand(1, scorer.inputs)
            x[0, place] = value
            if scorer.propagates_nonfinite:
                assert not scorer(x).isfinite().all()
    router = Router(scorer, Hard(), ("a", "b", "c"), fallback=1)
    x = torch.rand(2, scorer.inputs)
    x[1, 2] = float("nan")
    routing = router(x)
    assert routing.fallback.tolist() == [False, True]
    assert int(routing.experts[1, 0]) == 1


def test_no_file_but_a_scorers_own_asks_which_class_it_is() -> None:
    """`isinstance` over scorers: each place that is left reads or trains that one class."""
    root = Path(router_rl.__file__).parent
    places = {
        str(path.relative_to(root))
        for room in ("routing", "exports")
        for path in (root / room).rglob("*.py")
        if re.search(r"isinstance\([^)]*Scorer", path.read_text(encoding="utf-8"))
    }
    assert places == {
        "routing/policies/live_queues.py",  # maintains the state of a QueueScorer, or of a network of queues
        "routing/policies/live_servers.py",  # the same of a ServerScorer
        "routing/policies/network_scorer.py",
        "routing/policies/cascade_router.py",  # each asks for the scorer of its own file
        "routing/policies/session_router.py",
    }
