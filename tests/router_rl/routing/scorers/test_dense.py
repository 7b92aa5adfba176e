from __future__ import annotations

import pytest
import torch

from router_rl.routing import (
    SCORERS,
    ConstantScorer,
    HashScorer,
    KNNScorer,
    LinearScorer,
    MLPScorer,
    RouterError,
)
from router_rl.routing.scorers.registry import scorer_from_spec

SHAPES = [(1, 1, 1), (7, 5, 3), (2, 13, 4)]  # T, D, N


def seeded(scorer):
    """Fill parameters and buffers with random numbers."""
    with torch.no_grad():
        for name, value in scorer.state_dict().items():
            value.copy_(
                torch.randint_like(value, 1, 99) if value.dtype == torch.int64 else torch.randn_like(value)
            )
            if name == "variance":
                value.abs_()
    return scorer


def dense(x, weight, bias):
    """`x W^T + b` by loops over lists of Python floats."""
    return [
        [sum(a * b for a, b in zip(row, line, strict=True)) + c for line, c in zip(weight, bias, strict=True)]
        for row in x
    ]


def dense_gradients(x, weight, upstream):
    """Gradients of sum(upstream * (x W^T + b)) in W, b and x, by loops."""
    wide, narrow = range(len(weight[0])), range(len(weight))
    rows = range(len(x))
    of_weight = [[sum(upstream[t][n] * x[t][d] for t in rows) for d in wide] for n in narrow]
    of_bias = [sum(upstream[t][n] for t in rows) for n in narrow]
    of_x = [[sum(upstream[t][n] * weight[n][d] for n in narrow) for d in wide] for t in rows]
    return of_weight, of_bias, of_x


def standardised(scorer, x):
    shift, scale = scorer.shift.tolist(), scorer.scale.tolist()
    return [[(a - m) * s for a, m, s in zip(row, shift, scale, strict=True)] for row in x.tolist()]


def close(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected).reshape(found.shape), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "inputs", "experts"), SHAPES)
def test_linear_equals_a_float64_loop(rows, inputs, experts):
    scorer = seeded(LinearScorer(inputs, experts))
    x, upstream = torch.randn(rows, inputs), torch.randn(rows, experts)
    logits = scorer(x)
    weight, bias = scorer.weight.tolist(), scorer.bias.tolist()
    close(logits, dense(standardised(scorer, x), weight, bias))
    (logits * upstream).sum().backward()
    of_weight, of_bias, _ = dense_gradients(standardised(scorer, x), weight, upstream.tolist())
    close(scorer.weight.grad, of_weight)
    close(scorer.bias.grad, of_bias)


@pytest.mark.parametrize(("rows", "inputs", "experts"), SHAPES)
def test_mlp_equals_a_float64_loop(rows, inputs, experts):
    scorer = seeded(MLPScorer(inputs, experts, hidden=(6,)))
    x, upstream = torch.randn(rows, inputs), torch.randn(rows, experts)
    logits = scorer(x)
    first, last = scorer.layers
    before = dense(standardised(scorer, x), first.weight.tolist(), first.bias.tolist())
    hidden = [[max(value, 0.0) for value in row] for row in before]
    close(logits, dense(hidden, last.weight.tolist(), last.bias.tolist()))
    (logits * upstream).sum().backward()
    of_weight, of_bias, of_hidden = dense_gradients(hidden, last.weight.tolist(), upstream.tolist())
    close(last.weight.grad, of_weight)
    close(last.bias.grad, of_bias)
    of_before = [
        [gradient if value > 0 else 0.0 for gradient, value in zip(*pair, strict=True)]
        for pair in zip(of_hidden, before, strict=True)
    ]
    of_weight, of_bias, _ = dense_gradients(standardised(scorer, x), first.weight.tolist(), of_before)
    close(first.weight.grad, of_weight)
    close(first.bias.grad, of_bias)


def test_linear_golden():
    scorer = LinearScorer(2, 2)
    with torch.no_grad():
        scorer.shift.copy_(torch.tensor([1.0, 0.0]))
        scorer.scale.copy_(torch.tensor([2.0, 0.5]))
        scorer.weight.copy_(torch.tensor([[1.0, 1.0], [0.0, -2.0]]))
        scorer.bias.copy_(torch.tensor([0.5, 0.0]))
    # (3 - 1) * 2 = 4 and 4 * 0.5 = 2
    assert scorer(torch.tensor([[3.0, 4.0]])).tolist() == [[6.5, -4.0]]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_folded_is_the_same_function(kind):
    scorer = seeded(scorer_from_spec({"kind": kind, "inputs": 6, "experts": 4}))
    with torch.no_grad():
        scorer.scale[1] = 0.0  # a constant feature
        scorer.shift[2] = 30.0
        scorer.scale[3] = 1e-3
    before = {name: value.clone() for name, value in scorer.state_dict().items()}
    folded = scorer.folded()
    x = torch.randn(50, 6)
    torch.testing.assert_close(folded(x), scorer(x), atol=1e-5, rtol=1e-5)
    assert folded.shift.eq(0).all()
    assert folded.scale.eq(1).all()
    assert folded.spec() == scorer.spec()
    moved = x.clone()
    moved[:, 1] += 100.0
    torch.testing.assert_close(folded(moved), folded(x), atol=0, rtol=0)
    for name, value in scorer.state_dict().items():
        assert value.equal(before[name]), f"folding changed {name}"
    with torch.no_grad():
        next(iter(folded.parameters())).add_(1.0)
    for name, value in scorer.state_dict().items():
        assert value.equal(before[name]), f"{name} is shared with the folded scorer"


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_folding_twice_changes_nothing(kind):
    once = seeded(scorer_from_spec({"kind": kind, "inputs": 6, "experts": 4})).folded()
    twice = once.folded()
    for name, value in once.state_dict().items():
        assert value.equal(twice.state_dict()[name])


def test_an_mlp_without_hidden_layers_is_linear():
    mlp = seeded(MLPScorer(5, 3, hidden=()))
    linear = LinearScorer(5, 3)
    with torch.no_grad():
        linear.load_state_dict(
            {
                "shift": mlp.shift,
                "scale": mlp.scale,
                "weight": mlp.layers[0].weight,
                "bias": mlp.layers[0].bias,
            }
        )
    x = torch.randn(9, 5)
    assert mlp(x).equal(linear(x))
    torch.testing.assert_close(mlp.folded()(x), linear.folded()(x))


def test_a_constant_scorer_reads_only_the_number_of_rows():
    scorer = seeded(ConstantScorer(5, 3))
    x = torch.full((4, 5), float("nan"))
    assert scorer(x).equal(scorer.logits.repeat(4, 1))
    assert scorer(x[:0]).shape == (0, 3)
    assert scorer.folded()(x).equal(scorer(x))


# test_queue_scorer.py, test_scorer.py and test_tree_scorer.py have those three.
@pytest.mark.parametrize("kind", sorted(set(SCORERS) - {"queue", "servers", "trees"}))
@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_logits_are_float32_of_any_input(kind, rows, dtype):
    more = {
        "knn": {"rows": 8, "neighbours": 2},
        "guarded_knn": {"rows": 8, "neighbours": 2},
        "kernel": {"rows": 8, "neighbours": 2, "components": 3, "factor": 0.5},
        "lookup": {"groups": 4},
        "residual": {"base": {"kind": "mlp", "inputs": 5, "experts": 3}},
        "conditioned": {"hidden": (4,), "ranges": ((0.01, 0.8),)},
        "priced": {"ranges": ((0.01, 0.8),)},
    }.get(kind, {})
    scorer = seeded(scorer_from_spec({"kind": kind, "inputs": 5, "experts": 3, **more}))
    x = (10 * torch.randn(rows, 5)).to(dtype)
    logits = scorer(x)
    assert logits.shape == (rows, 3)
    assert logits.dtype == torch.float32
    assert logits.equal(scorer(x.float()))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_standardisation_is_not_trained(kind):
    scorer = scorer_from_spec({"kind": kind, "inputs": 5, "experts": 3})
    assert not {"shift", "scale"} & {name for name, _ in scorer.named_parameters()}
    assert {"shift", "scale"} <= set(scorer.state_dict())


@pytest.mark.parametrize(
    "scorer",
    [
        LinearScorer(5, 3),
        MLPScorer(5, 3),
        MLPScorer(5, 3, hidden=[4, 2]),
        ConstantScorer(5, 3),
        KNNScorer(5, 3, rows=9, neighbours=4, metric="cosine"),
        HashScorer(5, 3, pool=2),
    ],
    ids=["linear", "mlp", "deep", "constant", "knn", "hash"],
)
def test_spec_round_trip(scorer):
    again = scorer_from_spec(scorer.spec())
    assert type(again) is type(scorer) is SCORERS[scorer.spec()["kind"]]
    assert again.spec() == scorer.spec()
    again.load_state_dict(seeded(scorer).state_dict())
    x = torch.randn(4, 5)
    assert again(x).equal(scorer(x))


def test_unknown_kinds_and_settings_are_refused():
    with pytest.raises(
        RouterError,
        match="scorer 'tree' is unknown; known: conditioned, constant, guarded_knn, hash, kernel, knn",
    ):
        scorer_from_spec({"kind": "tree", "inputs": 5, "experts": 3})
    with pytest.raises(RouterError, match=r"scorer 'linear' does not take .*hidden"):
        scorer_from_spec({"kind": "linear", "inputs": 5, "experts": 3, "hidden": [2]})


def test_knn_by_hand():
    scorer = KNNScorer(1, 2, rows=3, neighbours=2)
    scorer.scale.fill_(0.5)
    scorer.store(torch.tensor([[0.0], [4.0], [10.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]]))
    assert scorer.queries.tolist() == [[0.0], [2.0], [5.0]]
    assert scorer(torch.tensor([[1.0], [9.0]])).tolist() == [[0.5, 0.5], [0.0, 2.0]]
    with pytest.raises(RouterError, match=r"KNNScorer.neighbours=4 does not fit 3 rows; use 1 to 3"):
        KNNScorer(1, 2, rows=3, neighbours=4)
    with pytest.raises(
        RouterError, match=r"KNNScorer.metric='manhattan' is unknown; use euclidean or cosine"
    ):
        KNNScorer(1, 2, rows=3, neighbours=1, metric="manhattan")


def test_cosine_neighbours_do_not_see_lengths():
    scorer = KNNScorer(2, 1, rows=2, neighbours=1, metric="cosine")
    scorer.store(torch.tensor([[9.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0], [2.0]]))
    x = torch.tensor([[0.1, 0.01], [50.0, 40.0], [0.0, 0.0]])
    assert scorer(x)[:2].flatten().tolist() == [1.0, 2.0]
    assert scorer(x).isfinite().all()
