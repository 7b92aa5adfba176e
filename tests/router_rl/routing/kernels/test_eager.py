"""Where Python may look at the values: the same answers as the reference, and the short way where it can."""

from __future__ import annotations

import pytest
import torch

from router_rl.routing.kernels import Gate, GateRule, eager, naive, torch_path

from .conftest import RULES, inputs_of
from .test_parity import ROWS, same


def distinct(case, rows):
    """Logits and corrections without a tie."""
    _, experts, corrected = case
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, experts, generator=generator)
    return logits, torch.rand(experts, generator=generator) if corrected else None


@pytest.mark.parametrize("rows", ROWS)
def test_it_is_the_reference(case, rows):
    *inputs, _ = inputs_of(case, rows)
    same(eager.gate(*inputs, case[0]), naive.gate(*inputs, None, case[0]))


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 16, 65, 300])
@pytest.mark.parametrize("grad", [True, False])
def test_the_short_way_is_the_long_one(case, rows, grad):
    logits, correction = distinct(case, rows)
    with torch.inference_mode(grad):
        found = eager.select(logits, correction, case[0])
    assert found is not None
    same(found, torch_path.select(logits, correction, None, case[0]))
    same(found, naive.select(logits, correction, None, case[0]))


def row_by_row(case, rows):
    """The gate on logits [rows, E], by way of an identity, row after row and all at once."""
    logits, correction = rows
    eye = torch.eye(case[1])
    for part in (logits, *logits.split(1)):
        yield eager.gate(part, eye, None, correction, case[0]), naive.select(part, correction, None, case[0])


def test_what_is_not_finite_and_what_ties_goes_the_long_way(case):
    logits, correction = distinct(case, 9)
    for spoil in (float("nan"), float("inf"), -float("inf")):
        bad = logits.clone()
        bad[1] = spoil
        assert eager.select(bad, correction, case[0]) is None
        bad = logits.clone()
        bad[4, 2] = spoil  # among numbers that are
        assert eager.select(bad, correction, case[0]) is None
        assert eager.select(bad[4:5], correction, case[0]) is None
    tied = (logits * 2).round() / 2
    for found, expected in row_by_row(case, (tied, correction)):
        same(found, expected)


@pytest.mark.parametrize("spoil", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("at", [0, 7, 36])
def test_one_row_that_is_not_finite(spoil, at):
    """Also a minus infinity that is nowhere near the chosen."""
    for name in ("qwen3", "mixtral", "switch"):
        case = RULES[name]
        logits, _ = distinct(case, 1)
        logits[0, min(at, case[1] - 1)] = spoil
        weight, hidden = torch.zeros(case[1], 2), torch.tensor([[1.0, 0.0]])
        weight[:, 0] = logits[0]
        found = eager.gate(hidden, weight, None, None, case[0])
        assert found.fallback.tolist() == [True]
        assert found.experts[0, 0] == case[0].fallback


def test_groups_that_nearly_tie_are_left_to_the_long_way():
    rule = GateRule(k=2, score="sigmoid", groups=4, kept=2)
    logits = torch.tensor([[1.0, 2.0, 2.0000002, 1.0, 0.0, 0.1, 3.0, 4.0]])
    assert eager.select(logits, None, rule) is None
    assert eager.select(logits.roll(2), None, rule) is None
    found = eager.gate(logits, torch.eye(8), None, None, rule)
    same(found, torch_path.select(logits, None, None, rule))


def test_what_is_returned_is_the_callers():
    """Nothing of a result is shared with the next."""
    for name in ("mixtral", "qwen3", "deepseek_v3"):
        rule, experts, corrected = RULES[name]
        gate = Gate(12, experts, rule, correction=corrected).eval()
        torch.nn.init.normal_(gate.weight)
        for rows in (1, 20):
            hidden = torch.randn(rows, 12)
            with torch.no_grad():
                first = gate(hidden)
                kept = [value.clone() for value in first[:4]]
                for value in gate(hidden)[:4]:
                    value.zero_()
                assert all(a.equal(b) for a, b in zip(gate(hidden)[:4], kept, strict=True))
                assert all(a.equal(b) for a, b in zip(first[:4], kept, strict=True))
