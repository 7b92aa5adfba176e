"""Rows to their experts and back: the same sums as slot by slot, at once and one expert after the other."""

from __future__ import annotations

import pytest
import torch

from router_rl.routing.kernels import Gate, mix, mixing, naive

from .conftest import RULES, inputs_of


def routed_and_reference(name, rows, run, dispatch):
    """Hidden states, their routing, and the outputs by the reference's gather and scatter."""
    rule, experts, corrected = case = RULES[name]
    inputs = inputs_of(case, rows)
    hidden = inputs.hidden.nan_to_num(0.5, 1.0, -1.0)
    gate = Gate(hidden.shape[1], experts, rule, correction=corrected, dispatch=dispatch).eval()
    with torch.no_grad():
        gate.weight.copy_(inputs.weight)
        routed = gate(hidden)
    slots = naive.dispatch(routed.experts, experts)
    parts = naive.gather(hidden, slots).split(slots.counts.tolist())
    outputs = [run(expert, part.clone()) for expert, part in enumerate(parts)]
    return hidden, routed, naive.scatter_back(torch.cat(outputs), routed.weights, slots)


def in_place(expert, rows):
    return rows.mul_(expert + 1.0)


def anew(expert, rows):
    return rows.flip(1) - expert


@pytest.mark.parametrize("name", ["mixtral", "qwen3", "switch"])
@pytest.mark.parametrize("rows", [0, 1, 5, 70])
@pytest.mark.parametrize("run", [in_place, anew])
@pytest.mark.parametrize("at_once", [False, True])
def test_it_is_slot_by_slot(name, rows, run, at_once, monkeypatch):
    monkeypatch.setattr(mixing, "_FETCHED_AT_ONCE", 2**40 if at_once else 0)
    for dispatch in (False, True):
        hidden, routed, expected = routed_and_reference(name, rows, run, dispatch)
        kept = hidden.clone()
        found = mix(hidden, routed, run, RULES[name][1])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
        assert hidden.equal(kept)  # an expert writes to its rows, not to the caller's


def test_an_expert_runs_once_if_it_has_rows_and_many_rows_are_fetched_expert_by_expert(monkeypatch):
    hidden, routed, _ = routed_and_reference("mixtral", 40, anew, dispatch=True)
    used = routed.experts.unique().tolist()
    for limit in (0, 2**40):
        monkeypatch.setattr(mixing, "_FETCHED_AT_ONCE", limit)
        ran: list[tuple[int, int]] = []
        mix(hidden, routed, lambda expert, rows: ran.append((expert, len(rows))) or rows, 8)  # noqa: B023
        assert ran == [(expert, int((routed.experts == expert).sum())) for expert in used]
    pieces: list[int] = []
    monkeypatch.setattr(
        mixing, "_FETCHED_AT_ONCE", hidden.numel() * 4 * 2
    )  # the slots' bytes are not below it
    mix(hidden, routed, lambda expert, rows: pieces.append(rows.untyped_storage().nbytes()) or rows, 8)
    assert max(pieces) < hidden.numel() * 4 * 2
