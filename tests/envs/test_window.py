"""Load over a window: hand-worked penalties, their sum, and equality with the steps of the environment."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import RoutingConfig, build_routing, load_penalty
from envs.routing import initial_state, next_query, start_windows, transition
from envs.window import clear_windows, count_decision, penalties_in_order


def test_load_penalty_golden():
    # N = 2, W = 2. First decision: (2 * 1 - 1) / 2. Then the same expert: (2 * (2 + 1) - 3) / 2, or the
    # other one: (2 * 1 - 3) / 2. Both on one expert: 2 = W (N - 1). One each: 0.
    first = torch.tensor([[1.0, 0.0]])
    second = torch.tensor([[0.0, 1.0]])
    start = load_penalty(torch.zeros(1, 2), torch.zeros(1), first, 2)
    same = load_penalty(first, torch.ones(1), first, 2)
    other = load_penalty(first, torch.ones(1), second, 2)
    assert (start.item(), same.item(), other.item()) == (0.5, 1.5, -0.5)
    # Half to each expert: (2 * 1/2 - 1) / 2.
    assert load_penalty(torch.zeros(1, 2), torch.zeros(1), (first + second) / 2, 2).item() == 0.0


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(data=st.data(), experts=st.integers(2, 8), window=st.integers(1, 40))
def test_penalties_over_a_window_sum_to_its_load(data, experts, window):
    k = data.draw(st.integers(1, experts))
    ids = st.lists(st.integers(0, experts - 1), min_size=k, max_size=k, unique=True)
    choices = data.draw(st.lists(ids, min_size=window, max_size=window))
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        counts, total = torch.zeros(experts, dtype=dtype), 0.0
        for decision, run in enumerate(choices):
            share = torch.zeros(experts, dtype=dtype)
            share[run] = 1.0 / k
            total += load_penalty(counts, torch.tensor(decision, dtype=dtype), share, window).item()
            counts = counts + share
        shares = [sum(expert in run for run in choices) / (k * window) for expert in range(experts)]
        load = experts * sum(share**2 for share in shares) - 1
        assert total == pytest.approx(window * load, abs=tolerance * window)


@settings(deadline=None, max_examples=50)
@given(data=st.data(), experts=st.integers(2, 8))
def test_permuting_experts_leaves_the_penalty(data, experts):
    order = torch.tensor(data.draw(st.permutations(range(experts))))
    counts = torch.tensor(data.draw(st.lists(st.integers(0, 30), min_size=experts, max_size=experts))).float()
    share = torch.zeros(experts)
    share[data.draw(st.integers(0, experts - 1))] = 1.0
    penalty = load_penalty(counts, counts.sum(), share, 64)
    torch.testing.assert_close(load_penalty(counts[order], counts.sum(), share[order], 64), penalty)


def shares_of(rows, experts, seed=0):
    """Random decisions that run one or two experts, [T, N]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, experts, (rows, 2), generator=generator)
    run = torch.zeros(rows, experts).scatter(1, ids, 1.0)
    return run / run.sum(dim=1, keepdim=True)


@pytest.mark.parametrize("window", [1, 4, 5, 13, 50])
def test_penalties_in_order_equal_a_loop_over_decisions(window):
    share = shares_of(13, 3)
    counts, decisions, expected = torch.zeros(1, 3), torch.zeros(1), []
    size = min(window, 13)  # one window holds all decisions where it is longer
    for one in share:
        expected.append(load_penalty(counts, decisions, one, size))
        counts, decisions = count_decision(counts, decisions, one)
        counts, decisions = clear_windows(counts, decisions, decisions >= size)
    assert penalties_in_order(share, window).equal(torch.cat(expected))


def test_count_and_clear_touch_only_their_lanes():
    counts, decisions = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([1.0, 1.0])
    share = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    after, number = count_decision(counts, decisions, share)
    assert after.tolist() == [[1.0, 1.0], [1.5, 0.5]]
    assert number.tolist() == [2.0, 2.0]
    cleared, number = clear_windows(after, number, torch.tensor([False, True]))
    assert cleared.tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert number.tolist() == [2.0, 0.0]
    assert counts.tolist() == [[1.0, 0.0], [0.5, 0.5]]  # pure


def test_the_state_functions_are_the_steps_of_the_core(make_table):
    core = build_routing(make_table(), 3, window=2, load_weight=0.4)
    core.reset(seed=5)
    state = initial_state(core.outcomes, torch.tensor([5, 6, 7]))
    for actions in ([0, 1, 2], [0, 2, 2], [1, 1, 0]):
        for mine, theirs in zip(state, core.state, strict=True):
            assert mine.equal(theirs)
        experts = torch.tensor(actions).unsqueeze(-1)
        config = RoutingConfig(window=2, load_weight=0.4)
        _, expected = transition(core.outcomes, config, state, experts, torch.ones(3, 1))
        step = core.step(torch.tensor(actions))
        assert step.reward.equal(expected.reward)
        core.clear(step.terminated)
        after = next_query(core.outcomes, state, step.parts["share"])
        state = start_windows(after, after.decisions >= 2)
