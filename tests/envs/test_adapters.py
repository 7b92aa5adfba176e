"""The scalar env, the vector env and the SB3 VecEnv are views of one process and pass the checkers."""

from __future__ import annotations

import importlib
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as sb3_check

import envs
from envs import ENVS, SB3VecEnv, VectorizedEnv, build_routing
from experts import InputError

ID = "RouterRL/Routing-v0"
CASES = [
    pytest.param({"k": k, "observe_load": observe}, id=f"k{k}-{'load' if observe else 'blind'}")
    for k in (1, 2)
    for observe in (True, False)
]
PARTS = {"quality", "compute", "load", "share"}


def settings_for(case):
    return {**case, "window": 4, "load_weight": 0.3}


def vector_env(table, lanes, **settings):
    return gymnasium.make_vec(
        ID, num_envs=lanes, vectorization_mode="vector_entry_point", table=table, **settings
    )


def random_actions(env, steps, seed=0):
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


@pytest.mark.parametrize("case", CASES)
def test_the_scalar_env_passes_both_checkers(make_table, case):
    env = gymnasium.make(ID, table=make_table(), **settings_for(case))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped)
        sb3_check(env.unwrapped)
    env.close()


def test_make_gives_the_registered_classes(make_table):
    env = gymnasium.make(ID, table=make_table())
    assert isinstance(env.unwrapped, envs.RoutingEnv)
    many = vector_env(make_table(), 3)
    assert isinstance(many.unwrapped, envs.RoutingVectorEnv)
    assert many.num_envs == 3
    assert many.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP


def test_importing_again_registers_nothing_twice():
    importlib.reload(envs)
    assert set(ENVS) >= {ID}
    assert gymnasium.spec(ID).entry_point == ENVS[ID][0]


@pytest.mark.parametrize("case", CASES)
def test_spaces_agree(make_table, case):
    table = make_table()
    scalar = gymnasium.make(ID, table=table, **settings_for(case))
    many = vector_env(table, 3, **settings_for(case))
    sb3 = SB3VecEnv(build_routing(table, 3, **settings_for(case)))
    assert scalar.observation_space == many.single_observation_space == sb3.observation_space
    assert scalar.action_space == many.single_action_space == sb3.action_space
    observation, _ = many.reset(seed=0)
    assert many.observation_space.contains(observation)
    assert many.action_space.contains(many.action_space.sample())


@pytest.mark.parametrize("case", CASES)
def test_the_scalar_env_is_row_0_of_the_others(make_table, case):
    table, lanes, ends = make_table(), 3, 0
    scalar = gymnasium.make(ID, table=table, **settings_for(case)).unwrapped
    many = vector_env(table, lanes, **settings_for(case))
    sb3 = SB3VecEnv(build_routing(table, lanes, **settings_for(case)))
    seen, info = scalar.reset(seed=21)
    assert info == {}
    observation, info = many.reset(seed=21)
    assert info == {}
    sb3.seed(21)
    stacked = sb3.reset()
    np.testing.assert_array_equal(observation[0], seen)
    np.testing.assert_array_equal(stacked, observation)
    for actions in random_actions(many, 14):
        seen, reward, terminated, truncated, info = scalar.step(actions[0])
        observation, rewards, terminations, truncations, infos = many.step(actions)
        stacked, paid, dones, messages = sb3.step(actions)
        assert seen.dtype == observation.dtype == stacked.dtype == np.float32
        assert rewards.dtype == np.float64
        assert (reward, terminated, truncated) == (rewards[0], terminations[0], truncations[0])
        assert info.keys() == PARTS
        assert infos.keys() - {"final_obs", "_final_obs"} == PARTS
        for name, part in info.items():
            np.testing.assert_array_equal(infos[name][0], part)
        np.testing.assert_array_equal(paid, rewards.astype(np.float32))
        np.testing.assert_array_equal(dones, terminations)
        assert not truncations.any()
        if terminated:
            ends += 1
            assert terminations.all()
            np.testing.assert_array_equal(infos["final_obs"][0], seen)
            for lane, message in enumerate(messages):
                np.testing.assert_array_equal(message["terminal_observation"], infos["final_obs"][lane])
                assert message["TimeLimit.truncated"] is False
            seen, _ = scalar.reset()
        else:
            assert "final_obs" not in infos
            assert messages == [{}] * lanes
        np.testing.assert_array_equal(observation[0], seen)
        np.testing.assert_array_equal(stacked, observation)
    assert ends == 3


def test_an_ending_lane_starts_anew_in_the_same_step(make_table):
    many = vector_env(make_table(), 3, window=4)
    many.reset(seed=5)
    core = many.unwrapped.core
    # Lanes end together unless their windows were started apart, as after loading a state.
    core.state = core.state._replace(decisions=torch.tensor([0.0, 3.0, 2.0]))
    observation, _, terminated, _, info = many.step(np.array([0, 1, 2]))
    assert terminated.tolist() == [False, True, False]
    assert info["_final_obs"].tolist() == [False, True, False]
    assert info["final_obs"][0] is None
    assert info["final_obs"][2] is None
    assert info["final_obs"][1].shape == (6,)
    assert info["final_obs"][1][3:].tolist() == [0.0, 0.25, 0.0]  # the count of the window that ended
    assert observation[1][3:].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_array_equal(
        observation[1][:3], info["final_obs"][1][:3]
    )  # the query stays the next one
    assert observation[0][3:].tolist() == [0.25, 0.0, 0.0]
    assert core.state.decisions.tolist() == [1.0, 0.0, 3.0]


def test_terminal_observations_of_sb3_are_only_where_a_lane_ended(make_table):
    sb3 = SB3VecEnv(build_routing(make_table(), 3, window=4))
    sb3.reset()
    sb3.core.state = sb3.core.state._replace(decisions=torch.tensor([0.0, 3.0, 2.0]))
    observation, _, dones, infos = sb3.step(np.array([0, 1, 2]))
    assert dones.tolist() == [False, True, False]
    assert [set(info) for info in infos] == [set(), {"terminal_observation", "TimeLimit.truncated"}, set()]
    assert infos[1]["terminal_observation"][3:].tolist() == [0.0, 0.25, 0.0]
    assert observation[1][3:].tolist() == [0.0, 0.0, 0.0]


def test_data_handed_out_is_not_written_to_later(make_table):
    many = vector_env(make_table(), 2, window=3)
    first, _ = many.reset(seed=0)
    kept, copies = [first], [first.copy()]
    for actions in random_actions(many, 7):
        observation, rewards, terminated, _, infos = many.step(actions)
        kept += [observation, rewards, terminated, *(infos[name] for name in sorted(PARTS))]
        copies += [np.array(value) for value in kept[len(copies) :]]
    for value, copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(value, copy)


@pytest.mark.parametrize("build", ["scalar", "vector", "sb3"])
def test_the_same_seed_gives_the_same_trajectory(make_table, build):
    table = make_table()

    def play(seed):
        if build == "scalar":
            env = gymnasium.make(ID, table=table, window=3)
            first, _ = env.reset(seed=seed)
        elif build == "vector":
            env = vector_env(table, 2, window=3)
            first, _ = env.reset(seed=seed)
        else:
            env = SB3VecEnv(build_routing(table, 2, window=3))
            env.seed(seed)
            first = env.reset()
        seen = [first]
        shape = () if build == "scalar" else (2,)
        for action in np.random.default_rng(0).integers(0, 3, (9, *shape)):
            step = env.step(action)
            seen.append(step[0])
            if build == "scalar" and step[2]:
                seen.append(env.reset()[0])
        return np.stack(seen)

    np.testing.assert_array_equal(play(7), play(7))
    assert (play(7) != play(8)).any()


def test_a_seed_reset_starts_the_stream_anew_and_no_seed_goes_on(make_table):
    env = gymnasium.make(ID, table=make_table(), window=3)
    first, _ = env.reset(seed=7)
    env.step(0)
    later, _ = env.reset()
    assert env.unwrapped.core.state.drawn.tolist() == [1]
    again, _ = env.reset(seed=7)
    np.testing.assert_array_equal(first, again)
    assert (first != later).any()


def test_sb3_seeds_once(make_table):
    sb3 = SB3VecEnv(build_routing(make_table(), 2, window=3))
    assert list(sb3.seed(9)) == [9, 10]
    sb3.reset()
    assert sb3.core.state.seed.tolist() == [9, 10]
    sb3.step(np.array([0, 1]))
    sb3.reset()
    assert sb3.core.state.drawn.tolist() == [1, 1]


def test_a_list_of_seeds_must_be_what_the_lanes_can_have(make_table):
    many = vector_env(make_table(), 3, window=3)
    listed, _ = many.reset(seed=[4, 5, 6])
    counted, _ = many.reset(seed=4)
    np.testing.assert_array_equal(listed, counted)
    for seeds in ([4, 4, 4], [4, None, None], [4, 5], [None, 5, 6], []):
        with pytest.raises(InputError, match=r"seed=\[.*\]: lane i uses random stream s \+ i; give s only"):
            many.reset(seed=seeds)
    state = many.unwrapped.core.state
    many.reset(seed=[None, None, None])
    assert many.unwrapped.core.state.drawn.equal(state.drawn)


def test_take_averages(make_table):
    sb3 = SB3VecEnv(build_routing(make_table(), 4, window=3, load_weight=0.2))
    sb3.seed(1)
    sb3.reset()
    assert sb3.take_averages() == {}
    twin = build_routing(make_table(), 4, window=3, load_weight=0.2)
    twin.reset(1)
    for steps in (5, 2):  # across an episode's end, and anew after being taken
        paid, parts = [], {name: [] for name in PARTS}
        for actions in random_actions(sb3, 4 * steps, seed=steps)[:steps]:
            actions = np.array([actions, 0, 1, 2])
            sb3.step(actions)
            step = twin.step(torch.from_numpy(actions))
            twin.clear(step.terminated)
            paid.append(step.reward)
            for name, part in step.parts.items():
                parts[name].append(part)
        means = sb3.take_averages()
        assert means.keys() == PARTS | {"return"}
        np.testing.assert_allclose(means["return"], torch.stack(paid).mean().item(), rtol=1e-5)
        for name in PARTS - {"share"}:
            np.testing.assert_allclose(means[name], torch.stack(parts[name]).mean().item(), atol=1e-6)
        np.testing.assert_allclose(means["share"], torch.stack(parts["share"]).mean(dim=(0, 1)), rtol=1e-5)
        assert means["share"].shape == (3,)
        assert means["share"].sum() == pytest.approx(1.0, abs=1e-5)
        expected = means["quality"] - 0.1 * means["compute"] - 0.2 * means["load"]
        assert means["return"] == pytest.approx(expected, abs=1e-5)
    assert sb3.take_averages() == {}


def test_the_lanes_of_sb3_share_one_object(make_table):
    sb3 = SB3VecEnv(build_routing(make_table(), 3, window=3))
    assert sb3.get_attr("num_envs", [0, 2]) == [3, 3]
    assert sb3.env_method("take_averages") == [{}] * 3
    sb3.set_attr("note", "all")
    assert sb3.note == "all"
    with pytest.raises(ValueError, match="the lanes share one object; set the attribute for all of them"):
        sb3.set_attr("note", "one", [0])
    assert sb3.env_is_wrapped(gymnasium.Wrapper) == [False] * 3
    sb3.close()


@pytest.mark.parametrize("container", [list, np.array, np.int64], ids=["list", "array", "scalar"])
def test_actions_come_in_any_ordinary_form(make_table, container):
    env = gymnasium.make(ID, table=make_table(), window=3).unwrapped
    env.reset(seed=0)
    action = 1 if container is np.int64 else [1]
    reward = env.step(container(action))[1]
    env.reset(seed=0)
    assert env.step(1)[1] == reward


def test_one_lane_as_a_vector(make_table):
    many = VectorizedEnv(build_routing(make_table(), 1, window=2, k=2))
    observation, _ = many.reset(seed=3)
    assert observation.shape == (1, 6)
    observation, rewards, terminated, truncated, _ = many.step(np.array([[0, 2]]))
    assert observation.shape == (1, 6)
    assert rewards.shape == terminated.shape == truncated.shape == (1,)


def test_the_public_names():
    assert [name for name in envs.__all__ if not hasattr(envs, name)] == []
