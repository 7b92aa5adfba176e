"""Tokens pass through the layers as in the model and are rewarded once; the env passes the checkers."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from envs.layer_load import LoadRule
from envs.token_moe import TokenMoEConfig, TokenMoECore, build_token_moe
from experts import InputError
from experts.moe.token_pool import TokenPool

ID = "RouterRL/TokenMoE-v0"
PARTS = {"compute", "load", "dropped", "quality", "share", "token_reward"}


@pytest.fixture(scope="module")
def pool(micro_pool) -> TokenPool:
    return micro_pool


def core_of(pool, lanes=2, **settings):
    return TokenMoECore(pool.tail, pool.parts["train"], TokenMoEConfig(**settings), lanes)


def actions(core, seed=0, high=None):
    generator = torch.Generator().manual_seed(seed)
    shape = (core.tail.depth, core.lanes, core.agents, core.config.k)
    return torch.randint(0, high or core.experts, shape, generator=generator)


@pytest.mark.parametrize("settings", [{}, {"k": 2, "choose": "some", "sequences": 2, "capacity": 1.5}])
def test_the_checker_is_content(pool, settings):
    env = gymnasium.make(ID, pool=pool, compute_weight=0.1, load_weight=0.1, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_the_scalar_env_is_row_0_of_the_vector_env(pool):
    settings = {"pool": pool, "load_weight": 0.1, "compute_weight": 0.2}
    scalar = gymnasium.make(ID, **settings).unwrapped
    many = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="vector_entry_point", **settings)
    seen, _ = scalar.reset(seed=4)
    observation, _ = many.reset(seed=4)
    np.testing.assert_allclose(observation[0], seen, atol=1e-6)
    many.action_space.seed(0)
    ends = 0
    for _ in range(5):
        played = many.action_space.sample()
        seen, reward, terminated, truncated, info = scalar.step(played[0])
        observation, rewards, terminations, truncations, infos = many.step(played)
        assert info.keys() == PARTS
        assert (terminated, truncated) == (terminations[0], truncations[0])
        np.testing.assert_allclose(rewards[0], reward, atol=1e-5)
        for name in PARTS:
            np.testing.assert_allclose(infos[name][0], info[name], atol=1e-5)
        assert many.observation_space.contains(observation)
        if terminated:
            ends += 1
            np.testing.assert_allclose(infos["final_obs"][0], seen, atol=1e-5)
            seen, _ = scalar.reset()
        np.testing.assert_allclose(observation[0], seen, atol=1e-5)
    assert ends == 2


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("k", [1, 2])
def test_a_walk_is_the_forward_pass_of_the_model(pool, k, cached):
    core = core_of(pool, k=k, choose="some", sequences=2)
    core.reset(seed=1)
    rows = core.state.rows.flatten()
    played = actions(core, high=core.experts + 1)
    quality = 0.0
    for action in played:
        if cached:
            assert core.outputs().shape == (2, core.agents, core.experts, core.tail.hidden)
        step = core.step(action)
        quality = quality + step.parts["quality"]
    assert step.terminated.all()

    def choose(layer, x):
        experts = played[layer].reshape(len(rows), -1, k)
        works = (experts < core.experts).float()
        return experts, works / works.sum(-1, keepdim=True).clamp(min=1)

    sequences = pool.parts["train"]
    loss = core.tail.loss(core.tail(sequences.states(rows), choose), sequences.targets(rows))
    gain = torch.from_numpy(sequences.dense_loss[rows]) - loss
    torch.testing.assert_close(quality, gain.reshape(2, -1).mean(1), atol=1e-5, rtol=1e-5)


def test_the_token_rewards_add_up_to_loss_compute_and_load(pool):
    core = core_of(
        pool, compute_weight=0.3, load_weight=0.2, load=LoadRule("tiles", tile=4), k=2, choose="some"
    )
    core.reset(seed=2)
    total = {name: torch.zeros(2) for name in ("reward", "quality", "compute", "load")}
    for action in actions(core, high=core.experts + 1):
        step = core.step(action)
        torch.testing.assert_close(step.parts["token_reward"].mean(dim=1), step.reward)
        total["reward"] += step.reward
        for name in ("quality", "compute", "load"):
            total[name] += step.parts[name]
    expected = total["quality"] - 0.3 * total["compute"] - 0.2 * total["load"]
    torch.testing.assert_close(total["reward"], expected, atol=1e-6, rtol=1e-5)
    ran = (actions(core, high=core.experts + 1) < core.experts).float().sum(-1).mean((0, 2))
    torch.testing.assert_close(total["compute"], ran)


def test_the_matching_expert_earns_nothing_over_the_oracle(pool):
    core = core_of(pool, lanes=3, reference="oracle")
    x = core.reset(seed=0)
    domain = torch.from_numpy(pool.parts["train"].domain[core.state.rows.flatten(), 0])
    earned = torch.zeros(3)
    for _ in range(core.tail.depth):
        assert x.shape == core.observation().shape
        earned += core.step(domain.reshape(3, 1, 1).expand(-1, core.agents, -1)).reward
    torch.testing.assert_close(earned, torch.zeros(3), atol=1e-5, rtol=0)


def test_tokens_without_room_pass_by(pool):
    core = core_of(pool, lanes=1, capacity=1.0)
    core.reset(seed=0)
    step = core.step(torch.zeros(1, core.agents, 1, dtype=torch.int64))
    room = -(-core.agents // core.experts)
    assert step.parts["dropped"].item() == pytest.approx(1 - room / core.agents)
    assert step.parts["compute"].item() == pytest.approx(room / core.agents / core.tail.depth)


def test_a_state_is_continued_exactly(pool):
    one, two = core_of(pool), core_of(pool)
    one.reset(seed=3)
    played = actions(one)
    one.step(played[0])
    two.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    torch.testing.assert_close(one.step(played[1]).reward, two.step(played[1]).reward)


def test_frozen_experts_stay_frozen(pool):
    before = pool.tail.fingerprint()
    core = core_of(pool)
    for action in actions(core):
        core.step(action)
    assert pool.tail.fingerprint() == before


def test_mistakes_are_told(pool):
    for field, value in {
        "k": 9,
        "sequences": 0,
        "capacity": 0.0,
        "choose": "all",
        "reference": "none",
    }.items():
        with pytest.raises(InputError, match=field):
            core_of(pool, **{field: value})
    with pytest.raises(InputError, match="compute_weight"):
        core_of(pool, compute_weight=-1.0)
    with pytest.raises(InputError, match="lanes"):
        core_of(pool, lanes=0)
    with pytest.raises(InputError, match='use "tiny"'):
        build_token_moe("huge")
    with pytest.raises(InputError, match="use train, validation, test"):
        build_token_moe(pool, part="all")


def test_measured_outcomes_are_the_walks_of_the_core(pool):
    core = core_of(pool, lanes=1)
    rows = torch.tensor([[2]])
    core.start(rows)
    for _ in range(core.tail.depth):
        step = core.step(torch.ones(1, core.agents, 1, dtype=torch.int64))
    sequences = pool.parts["train"]
    gain = sequences.dense_loss[2] - sequences.path_loss[2, 1]
    np.testing.assert_allclose(step.parts["token_reward"][0], gain, atol=1e-5)
