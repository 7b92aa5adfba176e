"""The caching process: a slow twin, the memories by hand, value iteration, and the adapters."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from envs import CachingConfig, MemoryProfile, SB3VecEnv, build_caching
from envs.memory import evicted
from experts import InputError, OutcomeTable

ID = "RouterRL/Caching-v0"
FAST = MemoryProfile(gpu_bandwidth=10.0, gpu_latency=0.5, disk_bandwidth=2.0, disk_latency=1.0)
CONFIGS = [
    {"gpu_share": 0.5, "host_share": 0.5, "gap": 0.7},
    {"gpu_share": 0.75, "host_share": 0.3, "gap": 3.0, "expert_bytes": (1.0, 3.0, 2.0, 2.0), "window": 9},
    {"gpu_share": 1.0, "host_share": 1.0, "persistence": 0.2},
]


class SlowCache:
    """One lane as the docstring specifies it, in Python numbers."""

    def __init__(self, core, table, config):
        self.table, self.config = table, config
        count = len(table.experts)
        sizes = config.expert_bytes * count if len(config.expert_bytes) == 1 else config.expert_bytes
        self.size = [float(size) for size in sizes]
        total = sum(self.size)
        self.gpu, self.host_room = config.gpu_share * total + 1e-3, config.host_share * total + 1e-3
        self.most_expensive = max(float(np.mean(table.cost[:, e], dtype=np.float64)) for e in range(count))
        self.start()

    def start(self):
        self.now = 0.0
        self.ready, self.host, self.bus, self.tick = {}, [], 0.0, 0
        self.used = {e: -1 - e for e in range(len(self.size))}
        held = 0.0
        for e, size in enumerate(self.size):
            held += size
            if held <= self.gpu:
                self.ready[e] = 0.0
            if held <= self.host_room:
                self.host.append(e)

    def wait(self, e):
        if e in self.ready:
            return max(0.0, self.ready[e] - self.now)
        profile = self.config.profile
        load = profile.gpu_latency + self.size[e] / profile.gpu_bandwidth
        if e not in self.host:
            load += profile.disk_latency + self.size[e] / profile.disk_bandwidth
        return max(self.bus - self.now, 0.0) + load

    def step(self, row, e, victim):
        wait, loaded = self.wait(e), 0.0
        if e not in self.ready:
            loaded = self.size[e]

            def order(f):
                return (f != victim, self.ready[f] > self.now + 1e-9, self.used[f])

            while sum(self.size[f] for f in self.ready) + self.size[e] > self.gpu:
                del self.ready[min(self.ready, key=order)]
            self.ready[e] = self.bus = self.now + wait
            if e not in self.host:
                self.used[e] = self.tick
                while self.host and sum(self.size[f] for f in self.host) + self.size[e] > self.host_room:
                    self.host.remove(min(self.host, key=self.used.__getitem__))
                if self.size[e] <= self.host_room:
                    self.host.append(e)
        self.used[e] = self.tick
        self.tick += 1
        self.now += self.config.gap
        quality, compute = (
            float(self.table.quality[row, e]),
            float(self.table.cost[row, e]) / self.most_expensive,
        )
        reward = quality - self.config.compute_weight * compute - self.config.wait_weight * wait
        return reward, wait, loaded


@pytest.mark.parametrize("config", CONFIGS)
def test_the_core_is_the_slow_cache(make_table, config):
    table = make_table(4, group=np.arange(23) % 3)
    core = build_caching(table, 3, profile=FAST, **{"expert_bytes": (2.0,), **config})
    core.reset(5)
    train = table.part("train")
    twins = [SlowCache(core, train, core.config) for _ in range(3)]
    expected = core.requests()
    generator = torch.Generator().manual_seed(0)
    for tick in range(40):
        for lane, twin in enumerate(twins):
            seen = core.observation()[lane, 3:].reshape(5, 4)
            assert [e for e in range(4) if seen[0, e]] == sorted(twin.ready)
            np.testing.assert_allclose(seen[1], [twin.wait(e) for e in range(4)], atol=1e-4)
            assert [e for e in range(4) if seen[2, e]] == sorted(twin.host)
            recent = [1.0 / (twin.tick - at) if at >= 0 else 0.0 for at in twin.used.values()]
            np.testing.assert_allclose(seen[3], recent, atol=1e-6)
        rows = core.state.row.tolist()
        if tick < core.config.window:
            assert rows == expected[:, tick].tolist()
        actions = torch.randint(0, 4, (3, 2), generator=generator)
        step = core.step(actions)
        for lane, twin in enumerate(twins):
            reward, wait, loaded = twin.step(rows[lane], *actions[lane].tolist())
            assert float(step.reward[lane]) == pytest.approx(reward, abs=1e-4)
            assert float(step.parts["wait_s"][lane]) == pytest.approx(wait, abs=1e-4)
            assert float(step.parts["loaded_bytes"][lane]) == loaded
        assert step.terminated.all() == (core.state.decisions >= core.config.window).all()
        if step.terminated.any():
            core.clear(step.terminated)
            for twin in twins:
                twin.start()


def test_topics_persist(make_table):
    table = make_table(group=np.arange(23) % 3)
    core = build_caching(table, 200, persistence=0.8, window=50)
    core.reset(0)
    group = torch.from_numpy(table.part("train").group.astype(int))[core.requests()]
    same = (group[:, 1:] == group[:, :-1]).float().mean()
    assert float(same) == pytest.approx(0.8 + 0.2 / 3, abs=0.02)
    assert group.unique().tolist() == [0, 1, 2]


def test_evicted_by_hand():
    held = torch.tensor([[True, True, True, False]] * 4)
    size = torch.tensor([2.0, 1.0, 3.0, 9.0])
    order = torch.tensor([[5.0, 1.0, 3.0, 0.0]] * 4)
    goes = evicted(held, size, order, torch.tensor([0.0, 1.0, 1.5, 6.0]))
    assert goes.int().tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0]]


def two_topics():
    """Two experts, each correct on its own topic only; one fits in memory, loading takes 1 second."""
    return OutcomeTable(
        experts=["a", "b"],
        query_id=range(4),
        features=np.array([[0.0], [0.0], [1.0], [1.0]]),
        quality=np.array([[1, 0], [1, 0], [0, 1], [0, 1]]),
        cost=np.ones((4, 2)),
        group=["x", "x", "y", "y"],
        split=["train"] * 4,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("persistence", "follows"), [(0.9, True), (0.0, False)])
def test_value_iteration_gives_the_optimum(persistence, follows):
    """Loading costs 1.2 and being right pays 1: worth it where the topic stays, not where it is drawn anew.

    State: (resident, topic). With topics that stay with chance p + (1 - p) / 2 = .95, following the topic
    earns 1 - 1.2 * .05 a request; staying with one expert .5. Drawn anew, following earns 1 - 1.2 / 2 = .4.
    """
    stay = persistence + (1.0 - persistence) / 2.0
    value = np.zeros((2, 2))  # of the expert resident and the topic at hand
    for _ in range(4_000):
        worth = np.zeros((2, 2, 2))
        for resident in range(2):
            for topic in range(2):
                for chosen in range(2):
                    paid = float(chosen == topic) - 1.2 * float(chosen != resident)
                    ahead = stay * value[chosen, topic] + (1.0 - stay) * value[chosen, 1 - topic]
                    worth[resident, topic, chosen] = paid + 0.999 * ahead
        value = worth.max(axis=-1)
    best = worth.argmax(axis=-1)
    assert bool((best == [[0, 1], [0, 1]]).all()) == follows
    settings = {
        "profile": MemoryProfile(gpu_bandwidth=1e9, gpu_latency=1.2, disk_bandwidth=1e9),
        "host_share": 1.0,
        "expert_bytes": (1.0,),
        "wait_weight": 1.0,
        "compute_weight": 0.0,
        "persistence": persistence,
        "gap": 5.0,
        "window": 500,
    }
    earned = {}
    for name in ("follow", "stay"):
        core = build_caching(two_topics(), 40, **settings)
        core.reset(0)
        total = 0.0
        for _ in range(500):
            topic = core.observation()[:, 0].long()
            answer = topic if name == "follow" else torch.zeros_like(topic)
            total += float(core.step(torch.stack([answer, 1 - answer], dim=-1)).reward.mean())
        earned[name] = total / 500
    assert earned["follow"] == pytest.approx(1.0 - 1.2 * (1.0 - stay), abs=0.02)
    assert earned["stay"] == pytest.approx(0.5, abs=0.03)
    assert (earned["follow"] > earned["stay"]) == follows


@pytest.mark.parametrize("config", CONFIGS)
def test_the_scalar_env_passes_both_checkers(make_table, config):
    env = gymnasium.make(ID, table=make_table(4), **config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped)
        sb3_check(env.unwrapped)
    env.close()


def test_the_scalar_env_is_row_0_of_the_others(make_table):
    table, settings = make_table(4), {"window": 7}
    scalar = gymnasium.make(ID, table=table, **settings).unwrapped
    many = gymnasium.make_vec(
        ID, num_envs=3, vectorization_mode="vector_entry_point", table=table, **settings
    )
    sb3 = SB3VecEnv(build_caching(table, 3, **settings))
    seen, _ = scalar.reset(seed=9)
    observation, _ = many.reset(seed=9)
    sb3.seed(9)
    np.testing.assert_array_equal(observation[0], seen)
    np.testing.assert_array_equal(sb3.reset(), observation)
    many.action_space.seed(0)
    ends = 0
    for _ in range(20):
        assert many.observation_space.contains(observation)
        actions = many.action_space.sample()
        seen, reward, terminated, _, info = scalar.step(actions[0])
        observation, rewards, terminations, _, infos = many.step(actions)
        stacked, paid, _, _ = sb3.step(actions)
        assert (reward, terminated) == (rewards[0], terminations[0])
        np.testing.assert_array_equal(paid, rewards.astype(np.float32))
        for name, part in info.items():
            np.testing.assert_array_equal(infos[name][0], part)
        if terminated:
            ends += 1
            seen, _ = scalar.reset()
        np.testing.assert_array_equal(observation[0], seen)
        np.testing.assert_array_equal(stacked, observation)
    assert ends == 2


def test_mistakes_are_named(make_table, tmp_path):
    for settings, name in (
        ({"gpu_share": 0.0}, "gpu_share"),
        ({"persistence": 2.0}, "persistence"),
        ({"window": 0}, "window"),
        ({"expert_bytes": ()}, "expert_bytes"),
        ({"wait_weight": -1.0}, "wait_weight"),
    ):
        with pytest.raises(InputError, match=name):
            CachingConfig(**settings)
    with pytest.raises(InputError, match="there are 3 experts; give one number, or 3"):
        build_caching(make_table(), 1, expert_bytes=(1.0, 2.0))
    with pytest.raises(InputError, match="use a larger share"):
        build_caching(make_table(), 1, gpu_share=0.1)
    path = tmp_path / "profile.yaml"
    path.write_text("gpu_bandwidth: 12e9\ndisk_bandwidth: 500000000\n")
    assert MemoryProfile.read(path) == MemoryProfile(gpu_bandwidth=12e9, disk_bandwidth=5e8)
    for text, name in (
        ("gpu: 1\n", "unknown key"),
        ("- 1\n", "is not a mapping"),
        ("disk_bandwidth: 0\n", "use a number above 0"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=name):
            MemoryProfile.read(path)
