"""The formulas of queueing theory hold, and the adapters are views of one process."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from envs import SB3VecEnv, build_queueing
from experts import InputError, OutcomeTable

ID = "RouterRL/Queueing-v0"
PARTS = {"quality", "compute", "lateness", "missed", "overspend", "share"}


def single(rows=200_000, seed=0):
    """Two experts whose service times are exponential with mean 1."""
    rng = np.random.default_rng(seed)
    return OutcomeTable(
        experts=["a", "b"],
        query_id=range(rows),
        features=np.zeros((rows, 1)),
        quality=np.ones((rows, 2)),
        cost=np.ones((rows, 2)),
        latency_s=rng.exponential(1.0, (rows, 2)) + 1e-12,
        split=["train"] * rows,
    )


def waits(core):
    """Waiting times of all requests [B, W], each sent to the first expert."""
    first = torch.zeros(core.lanes, dtype=torch.int64)
    for _ in range(core.config.window):
        core.step(first)
    row = core.state.episodes.row[:, : core.config.window]
    return (core.responses() - core.servers.service[row, 0]).numpy(), core


def interval_of(lane_means):
    """Mean over independent lanes and four standard errors."""
    return lane_means.mean(), 4 * lane_means.std(ddof=1) / np.sqrt(len(lane_means))


@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "load"), [(1, 0.5), (1, 0.8), (3, 0.8)])
def test_waits_utilisation_and_littles_law_are_those_of_the_formulas(replicas, load):
    # The second expert idles; it counts in the load, so the first one carries twice its share.
    core = build_queueing(single(), 64, load=load / 2, replicas=replicas, window=4000)
    wait, core = waits(core)
    served = core.responses().numpy()[:, 500:]  # the queue begins empty
    wait = wait[:, 500:]
    assert wait.min() > -1e-9
    offered = load * replicas
    blocked = offered**replicas / np.prod(np.arange(1, replicas + 1)) / (1 - load)
    blocked /= blocked + sum(offered**k / np.prod(np.arange(1, k + 1)) for k in range(replicas))
    expected = blocked / (replicas * (1 - load))  # Erlang's C over the spare capacity
    found, margin = interval_of(wait.mean(axis=1))
    assert abs(found - expected) < margin
    assert margin < 0.35 * expected
    delayed, margin = interval_of((wait > 1e-9).mean(axis=1))
    assert abs(delayed - blocked) < margin
    # Little: requests in the system, seen by arrivals (PASTA), are rate times time in the system.
    arrival = core.state.episodes.arrival[:, :4000].numpy()
    finish = arrival + core.responses().numpy()
    seconds = arrival[:, -1] - arrival[:, 500]
    inside = (np.minimum(finish, arrival[:, -1:]) - np.maximum(arrival, arrival[:, 500:501])).clip(0)
    held = inside.sum(axis=1) / seconds
    little, margin = interval_of(held - served.mean(axis=1) * offered)
    assert abs(little) < margin
    busy = (
        core.servers.service[core.state.episodes.row[:, 500:4000], 0].numpy().sum(axis=1) / seconds / replicas
    )
    used, margin = interval_of(busy)
    assert abs(used - load) < margin


@pytest.mark.slow
def test_a_failing_server_waits_as_the_formula_says():
    # M/M/1 with exponential spells up (mean u) and down (mean r), work going on after the repair:
    # the number in the system has mean (rho + rate * a * r^2 / (r + u)) / (1 - rho), rho = rate / a,
    # a = u / (u + r), service mean 1 (White and Christie 1958).
    up, repair, load = 20.0, 5.0, 0.6
    core = build_queueing(single(), 128, load=load / 2, window=1500, mean_up=up, mean_repair=repair)
    _, core = waits(core)
    available = up / (up + repair)
    rate = load * available
    rho = rate / available
    inside = (rho + rate * repair**2 / (up + repair)) / (1 - rho)
    found, margin = interval_of(core.responses().numpy()[:, 300:].mean(axis=1) * rate)
    assert abs(found - inside) < margin
    assert margin < 0.2 * inside


def test_the_env_passes_both_checkers(make_table):
    for settings in ({}, {"batch": 3, "mean_up": 9.0, "budget": 0.5, "replicas": 2}):
        env = gymnasium.make(ID, table=make_table(), window=20, **settings)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gymnasium_check(env.unwrapped)
            sb3_check(env.unwrapped)


def test_the_scalar_env_is_row_0_of_the_others(make_table):
    settings = {"window": 5, "batch": 2, "mean_up": 9.0, "budget": 0.4, "load": 1.5}
    table = make_table()
    scalar = gymnasium.make(ID, table=table, **settings).unwrapped
    many = gymnasium.make_vec(
        ID, num_envs=3, vectorization_mode="vector_entry_point", table=table, **settings
    )
    sb3 = SB3VecEnv(build_queueing(table, 3, **settings))
    assert scalar.observation_space == many.single_observation_space == sb3.observation_space
    seen, _ = scalar.reset(seed=4)
    observation, _ = many.reset(seed=4)
    sb3.seed(4)
    np.testing.assert_array_equal(sb3.reset(), observation)
    many.action_space.seed(0)
    for _ in range(12):
        np.testing.assert_array_equal(seen, observation[0])
        assert many.single_observation_space.contains(seen)
        actions = many.action_space.sample()
        seen, reward, terminated, _, info = scalar.step(actions[0])
        observation, rewards, ends, _, infos = many.step(actions)
        stacked, paid, _, _ = sb3.step(actions)
        assert info.keys() == PARTS
        assert (reward, terminated) == (rewards[0], ends[0])
        np.testing.assert_array_equal(paid, rewards.astype(np.float32))
        np.testing.assert_array_equal(stacked, observation)
        if terminated:
            np.testing.assert_array_equal(infos["final_obs"][0], seen)
            seen, _ = scalar.reset()


def test_lanes_of_a_group_meet_the_same_requests_and_others_do_not(make_table):
    core = build_queueing(make_table(), 4, group=2, window=30, mean_up=9.0)
    episodes = core.state.episodes
    for part in (episodes.arrival, episodes.row, episodes.outages.fails):
        assert part[0].equal(part[1])
        assert part[2].equal(part[3])
        assert not part[1].equal(part[2])


def test_a_fork_and_a_loaded_state_go_on_alike(make_table):
    core = build_queueing(make_table(), 3, window=30, batch=2, mean_up=9.0, load=2.0)
    rng = np.random.default_rng(0)
    for _ in range(9):
        core.step(torch.from_numpy(rng.integers(0, 3, 3)))
    saved = core.state_dict()
    fork = core.fork(torch.tensor([2, 0, 0]))
    actions = torch.tensor([1, 1, 2])
    before = core.observation()
    mine, other = core.step(actions), fork.step(actions[[2, 0, 0]])
    assert other.reward.equal(mine.reward[[2, 0, 0]])
    assert fork.observation().equal(core.observation()[[2, 0, 0]])
    core.load_state_dict(saved)
    assert core.observation().equal(before)
    assert core.step(actions).reward.equal(mine.reward)


def test_a_budget_penalises_what_is_above_it(make_table):
    core = build_queueing(make_table(), 2, window=10, budget=0.2, overspend_weight=3.0)
    features = core.outcomes.features.shape[1]
    spent = torch.zeros(2)
    overspent = torch.zeros(2)
    for k in range(10):
        left = core.observation()[:, features + 9 + 4 :]
        torch.testing.assert_close(left[:, 0], (2.0 - spent) / (10 - k))
        torch.testing.assert_close(left[:, 1], torch.full((2,), (10 - k) / 10))
        step = core.step(torch.tensor([0, 2]))
        spent += step.parts["compute"]
        overspent += step.parts["overspend"]
    torch.testing.assert_close(overspent, (spent - 2.0).clamp(min=0.0))
    assert overspent[0] == 0 < overspent[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 2.5}, "batch=2.5: is not a whole number; use a whole number of at least 1"),
        ({"load": 0.0}, "load=0.0: is out of range; use a number above 0"),
        ({"deadlines": (1.0, 2.0)}, "values=[1.0]: do not match 2 deadlines"),
        (
            {"replicas": (1, 2)},
            "replicas=(1, 2): there are 3 experts; give one number, or one for each expert",
        ),
        ({"arrivals": "poison"}, "did you mean"),
        ({"batch_slope": 2.0}, "batch_slope=2.0: is out of range; use a number from 0 to 1"),
    ],
)
def test_mistakes_are_named(make_table, settings, message):
    with pytest.raises(InputError) as error:
        build_queueing(make_table(), 2, **settings)
    assert message in str(error.value)
