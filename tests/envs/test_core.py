"""What every batched core does the same way: lanes, seeds, resets and saved states."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from envs import (
    BatchedCore,
    TokenGenerationCore,
    build_caching,
    build_cascade,
    build_queueing,
    build_routing,
    build_session,
    build_token_generation,
    build_token_moe,
)
from envs.core import float_box, replace_lanes
from experts import InputError

BUILDERS = {
    "routing": build_routing,
    "cascade": build_cascade,
    "queueing": build_queueing,
    "caching": build_caching,
    "session": build_session,
    "token_generation": build_token_generation,
    "token_moe": build_token_moe,
}
WINDOWS = {"routing": 3, "queueing": 5, "caching": 4}


@pytest.fixture(params=sorted(BUILDERS))
def make_core(request, make_table) -> Callable[..., BatchedCore]:
    name = request.param
    pools = {"token_moe": "micro_pool", "token_generation": "asked_pool"}
    source = request.getfixturevalue(pools[name]) if name in pools else make_table()

    def make(lanes: int, **options) -> BatchedCore:
        options |= {"window": WINDOWS[name]} if name in WINDOWS else {}
        return BUILDERS[name](source, lanes, **options)

    return make


def random_actions(core, generator):
    """Valid or invalid actions of every lane, as a step takes them."""
    core.action_space.seed(int(generator.integers(1 << 30)))
    return torch.from_numpy(np.stack([core.action_space.sample() for _ in range(core.lanes)]))


def test_lanes_must_be_positive(make_core):
    with pytest.raises(InputError, match="lanes=0: not positive; use 1 or more"):
        make_core(0)


def test_groups_must_be_positive(make_table):
    with pytest.raises(InputError, match="group=0: not positive; use 1 or more"):
        build_queueing(make_table(), 2, group=0)


def test_lane_i_of_seed_s_is_lane_0_of_seed_s_plus_i(make_core):
    many, one = make_core(3), make_core(1)
    together = many.reset(seed=40)
    for lane in range(3):
        alone = one.reset(seed=40 + lane)[0]
        # The matrix products of a single token round in another way than those of three.
        near = isinstance(one, TokenGenerationCore) and torch.allclose(alone, together[lane], atol=1e-5)
        assert near or alone.equal(together[lane])


def test_a_seed_restarts_and_no_seed_continues(make_core):
    core, generator = make_core(2), np.random.default_rng(1)
    first = core.reset(seed=8)
    core.step(random_actions(core, generator))
    core.reset()
    assert core.reset(seed=8).equal(first)


def test_a_saved_state_continues_exactly(make_core, tmp_path):
    core, other, generator = make_core(3), make_core(3), np.random.default_rng(2)
    core.reset(seed=6)
    for _ in range(4):
        core.clear(core.step(random_actions(core, generator)).terminated)
    torch.save(core.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(6):
        assert other.observation().equal(core.observation())
        actions = random_actions(core, generator)
        step, again = core.step(actions), other.step(actions)
        assert step.reward.equal(again.reward)
        assert step.terminated.equal(again.terminated)
        core.clear(step.terminated)
        other.clear(again.terminated)


def test_replace_lanes_takes_any_shape():
    finished = torch.tensor([True, False])
    for shape in ((2,), (2, 3), (2, 3, 4)):
        replaced = replace_lanes(finished, torch.zeros(shape), torch.ones(shape))
        assert replaced[0].eq(0).all()
        assert replaced[1].eq(1).all()


def test_float_box_joins_the_bounds():
    box = float_box([np.array([-1.0]), np.zeros(2)], [np.array([3.0]), np.ones(2)])
    assert box.low.tolist() == [-1.0, 0.0, 0.0]
    assert box.high.tolist() == [3.0, 1.0, 1.0]
    assert box.dtype == np.float32
