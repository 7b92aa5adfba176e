from __future__ import annotations

import dataclasses

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from envs import Outcomes, RoutingConfig, RoutingCore, RoutingEnv, build_routing, compute_scale
from envs.routing import observe, transition
from experts import InputError

CONFIGS = [
    {"k": 1, "window": 5, "load_weight": 0.3},
    {"k": 1, "window": 1, "load_weight": 0.3, "observe_load": False},
    {"k": 2, "window": 4, "load_weight": 0.2, "compute_weight": 0.5},
    {"k": 3, "window": 3, "load_weight": 1.5, "compute_weight": 0.0, "observe_load": False},
]


class SlowRouting:
    """The routing process as its docstring specifies it: one lane, Python numbers, no tensors."""

    def __init__(self, table, seed, *, k, window, compute_weight=0.1, load_weight=0.0, observe_load=True):
        self.table, self.seed, self.k, self.window = table, seed, k, window
        self.compute_weight, self.load_weight, self.observe_load = compute_weight, load_weight, observe_load
        self.experts = len(table.experts)
        self.most_expensive = max(sum(map(float, table.cost[:, e])) / len(table) for e in range(self.experts))
        self.drawn = 0
        self.history = []

    def row(self):
        mask = 2**64 - 1
        golden = 0x9E3779B97F4A7C15

        def mix(z):
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
            return z ^ (z >> 31)

        return (mix((mix(self.seed * golden & mask) + self.drawn * golden) & mask)) % 2**63 % len(self.table)

    def counts(self):
        return [sum((expert in ids) / len(ids) for ids in self.history) for expert in range(self.experts)]

    def potential(self):
        """W times the load that the decisions so far would make, were they the window's only ones."""
        total = len(self.history)
        return (self.experts * sum(count**2 for count in self.counts()) - total**2) / self.window

    def observation(self):
        features = [float(value) for value in self.table.features[self.row()]]
        load = [count / self.window for count in self.counts()] if self.observe_load else []
        return features + load

    def quality(self, row, experts):
        table = self.table
        if len(experts) == 1 or table.probabilities is None:
            return sum(float(table.quality[row, expert]) for expert in experts) / len(experts)
        mixed = sum(table.probabilities[row, expert].astype(float) for expert in experts)
        return float(int(np.argmax(mixed)) == table.label[row])

    def step(self, experts):
        row, before = self.row(), self.potential()
        quality = self.quality(row, experts)
        compute = sum(float(self.table.cost[row, expert]) for expert in set(experts)) / self.most_expensive
        self.history.append(set(experts))
        load = self.potential() - before
        self.drawn += 1
        reward = quality - self.compute_weight * compute - self.load_weight * load
        return (
            reward,
            len(self.history) == self.window,
            {"quality": quality, "compute": compute, "load": load},
        )

    def clear(self):
        self.history = []


def actions_for(core, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, core.lanes) if core.config.k == 1 else (steps, core.lanes, core.config.k)
    return torch.randint(0, core.experts, shape, generator=generator)


@pytest.mark.parametrize("probabilities", [True, False])
@pytest.mark.parametrize("settings", CONFIGS, ids=lambda settings: f"k{settings['k']}-w{settings['window']}")
def test_equals_the_slow_scalar_process(make_table, settings, probabilities):
    table, lanes = make_table(4, probabilities=probabilities), 3
    core = build_routing(table, lanes, **settings)
    core.reset(seed=10)
    slow = [SlowRouting(table.part("train"), 10 + lane, **settings) for lane in range(lanes)]
    for actions in actions_for(core, 4 * settings["window"] + 2):
        step = core.step(actions)
        expected = [one.step(ids) for one, ids in zip(slow, actions.reshape(lanes, -1).tolist(), strict=True)]
        torch.testing.assert_close(step.reward, torch.tensor([reward for reward, _, _ in expected]))
        assert step.terminated.tolist() == [ended for _, ended, _ in expected]
        for part in ("quality", "compute", "load"):
            wanted = torch.tensor([parts[part] for _, _, parts in expected])
            torch.testing.assert_close(step.parts[part], wanted, atol=1e-5, rtol=1e-5)
        observation = torch.tensor([one.observation() for one in slow])
        torch.testing.assert_close(core.observation(), observation)
        assert core.observation().dtype == step.reward.dtype == torch.float32
        if step.terminated.any():
            assert step.terminated.all()
            core.clear(step.terminated)
            for one in slow:
                one.clear()


def test_the_mean_penalty_of_a_window_is_its_load(make_table):
    core = build_routing(make_table(), 2, window=6, load_weight=1.0)
    penalties = [core.step(torch.tensor([0, lane])).parts["load"] for lane in (0, 1, 2, 0, 1, 2)]
    # All six on one of 3 experts: N - 1 = 2. Two each: 0.
    torch.testing.assert_close(torch.stack(penalties).mean(dim=0), torch.tensor([2.0, 0.0]))


def test_share_divides_a_decision_among_the_experts_that_run(make_table):
    core = build_routing(make_table(), 2, k=2)
    step = core.step(torch.tensor([[0, 2], [1, 1]]))
    assert step.parts["share"].tolist() == [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
    assert core.state.counts.tolist() == step.parts["share"].tolist()


def test_transition_is_pure(make_table):
    core = build_routing(make_table(), 3, window=4, k=2)
    before = {name: value.clone() for name, value in core.state_dict().items()}
    experts = torch.tensor([[0, 1], [1, 2], [2, 2]])
    weights = torch.full((3, 2), 0.5)
    first, step = transition(core.outcomes, core.config, core.state, experts, weights)
    second, again = transition(core.outcomes, core.config, core.state, experts, weights)
    for name, value in core.state_dict().items():
        assert value.equal(before[name])
        assert getattr(first, name).equal(getattr(second, name))
    assert step.reward.equal(again.reward)
    assert observe(core.outcomes, core.config, core.state).equal(core.observation())


def test_lane_i_of_seed_s_is_lane_0_of_seed_s_plus_i(make_table):
    table, lanes = make_table(), 4
    many = build_routing(table, lanes, window=3, load_weight=0.1)
    many.reset(seed=100)
    singles = [build_routing(table, 1, window=3, load_weight=0.1) for _ in range(lanes)]
    for lane, single in enumerate(singles):
        single.reset(seed=100 + lane)
    for actions in actions_for(many, 8):
        step = many.step(actions)
        for lane, single in enumerate(singles):
            one = single.step(actions[lane : lane + 1])
            assert one.reward.equal(step.reward[lane : lane + 1])
            assert single.observation()[0].equal(many.observation()[lane])
            single.clear(one.terminated)
        many.clear(step.terminated)


def test_seeds_decide(make_table):
    core = build_routing(make_table(), 2, window=3)

    def play(seed):
        seen = [core.reset(seed)]
        for actions in actions_for(core, 9):
            core.clear(core.step(actions).terminated)
            seen.append(core.observation())
        return torch.stack(seen)

    assert play(4).equal(play(4))
    assert not play(4).equal(play(6))
    assert RoutingCore(core.outcomes, core.config, 2, seed=4).observation().equal(core.reset(4))


def test_reset_without_a_seed_goes_on_with_the_stream(make_table):
    core = build_routing(make_table(), 2, window=5)
    core.reset(3)
    for actions in actions_for(core, 2):
        core.step(actions)
    before = core.state
    observation = core.reset()
    assert core.state.row.equal(before.row)
    assert core.state.drawn.equal(before.drawn)
    assert (core.state.counts == 0).all()
    assert (core.state.decisions == 0).all()
    assert observation.equal(core.observation())


def test_clear_touches_only_what_finished(make_table):
    core = build_routing(make_table(), 3, window=5)
    core.step(torch.tensor([0, 1, 2]))
    counts = core.state.counts
    core.clear(torch.tensor([False, True, False]))
    assert core.state.decisions.tolist() == [1.0, 0.0, 1.0]
    assert core.state.counts[[0, 2]].equal(counts[[0, 2]])
    assert (core.state.counts[1] == 0).all()


@pytest.mark.parametrize("settings", CONFIGS, ids=lambda settings: f"k{settings['k']}-w{settings['window']}")
def test_a_saved_state_continues_exactly(make_table, settings, tmp_path):
    table = make_table(4)
    core = build_routing(table, 3, **settings)
    core.reset(seed=8)
    played = actions_for(core, 2 * settings["window"] + 5)
    for actions in played[: settings["window"] + 2]:
        core.clear(core.step(actions).terminated)
    torch.save(core.state_dict(), tmp_path / "state.pt")
    other = build_routing(table, 3, **settings)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.observation().equal(core.observation())
    for actions in played[settings["window"] + 2 :]:
        step, again = core.step(actions), other.step(actions)
        assert step.reward.equal(again.reward)
        assert step.terminated.equal(again.terminated)
        for name, part in step.parts.items():
            assert part.equal(again.parts[name])
        core.clear(step.terminated)
        other.clear(again.terminated)
        assert other.observation().equal(core.observation())


def test_a_saved_state_is_not_changed_by_playing_on(make_table):
    core = build_routing(make_table(), 2, window=3)
    saved = core.state_dict()
    before = {name: value.clone() for name, value in saved.items()}
    for actions in actions_for(core, 5):
        core.clear(core.step(actions).terminated)
    for name, value in saved.items():
        assert value.equal(before[name])


def test_a_policy_may_weigh_its_experts(make_table):
    table = make_table(probabilities=False)
    seen = []

    def weigh(observation, experts):
        seen.append((observation, experts))
        return torch.tensor([[1.0, 0.0], [0.25, 0.75]])

    rows = table.part("train")
    outcomes = Outcomes.of(rows, compute_scale(rows))
    core = RoutingCore(outcomes, RoutingConfig(k=2, window=9), 2, weigh=weigh)
    before, row = core.observation(), core.state.row
    quality = core.step(torch.tensor([[1, 2], [0, 2]])).parts["quality"]
    expected = [
        outcomes.quality[row[0], 1],
        0.25 * outcomes.quality[row[1], 0] + 0.75 * outcomes.quality[row[1], 2],
    ]
    torch.testing.assert_close(quality, torch.stack(expected))
    assert seen[0][0].equal(before)
    assert seen[0][1].tolist() == [[1, 2], [0, 2]]


@pytest.mark.parametrize("observe_load", [True, False])
@pytest.mark.parametrize("k", [1, 2])
def test_spaces(make_table, k, observe_load):
    core = build_routing(make_table(), 2, k=k, observe_load=observe_load, window=3)
    box = core.observation_space
    assert box.shape == (3 + 3 * observe_load,)
    assert box.dtype == np.float32
    assert (box.low < box.high).all()
    assert core.action_space == (spaces.Discrete(3) if k == 1 else spaces.MultiDiscrete([3, 3]))
    for actions in actions_for(core, 12):
        terminated = core.step(actions).terminated
        assert all(box.contains(row) for row in core.observation().numpy())
        core.clear(terminated)


def test_build_routing_chooses_rows_and_the_unit_of_compute(make_table):
    table = make_table()
    assert build_routing(table, 1).outcomes.queries == 19
    assert build_routing(table, 1, split="test").outcomes.queries == 2
    assert build_routing(table, 1, split=None).outcomes.queries == 23
    scaled = build_routing(table, 1, scale=2.0).outcomes.compute.numpy()
    np.testing.assert_allclose(scaled, table.part("train").cost / 2.0, rtol=1e-6)


def test_build_routing_reads_a_file(make_table, tmp_path):
    table = make_table()
    table.write(tmp_path / "table.parquet")
    core = build_routing(str(tmp_path / "table.parquet"), 2, window=7)
    assert core.outcomes.quality.equal(build_routing(table, 2).outcomes.quality)
    assert core.config.window == 7


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"compute_weight": -0.1}, "compute_weight=-0.1"),
        ({"compute_weight": float("nan")}, "compute_weight=nan"),
        ({"load_weight": float("inf")}, "load_weight=inf"),
        ({"load_weight": -1}, "load_weight=-1"),
        ({"window": 0}, "window=0"),
        ({"k": 0}, "k=0"),
        ({"k": -2}, "k=-2"),
    ],
    ids=str,
)
def test_bad_settings_name_their_field(make_table, settings, field):
    with pytest.raises(InputError, match=rf"^{field}(\.0)?: is (out of range|not finite); use "):
        RoutingConfig(**settings)
    with pytest.raises(InputError, match=rf"^{field}: "):
        gymnasium.make("RouterRL/Routing-v0", table=make_table(), **settings)


def test_lanes_and_k_must_fit_the_table(make_table):
    with pytest.raises(InputError, match="lanes=0: not positive; use 1 or more"):
        build_routing(make_table(), 0)
    with pytest.raises(InputError, match="k=4: exceeds 3 experts; use 1 to 3"):
        build_routing(make_table(), 1, k=4)
    build_routing(make_table(), 1, k=3)


def test_a_table_without_features_is_refused(make_table):
    with pytest.raises(InputError, match="has no features; add a `features` column"):
        RoutingEnv(make_table(features=None))


def test_the_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RoutingConfig().window = 3
