"""The cascade: a slow twin, masks, the hand-solved case, and the adapters as views of one process."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import gymnasium
import numpy as np
import pyarrow as pa
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from envs import CascadeConfig, CascadeCore, CascadeTable, SB3VecEnv, build_cascade
from experts import InputError, OutcomeTable
from experts.table.follow_ups import followed_by

ID = "RouterRL/Cascade-v0"
CONFIGS = [
    {},
    {"compute_weights": (0.05, 0.4), "max_experts": 2},
    {"budget": 0.2, "max_experts": 3, "compute_weights": (0.3,)},
    {"failure": 0.5, "compute_weights": (0.1, 0.2, 0.7)},
]


class SlowCascade:
    """One query's cascade as the docstring specifies it, in Python numbers."""

    def __init__(self, table, row, weight, alive, *, max_experts=3, budget=None):
        self.table, self.row, self.weight, self.alive = table, row, weight, alive
        self.max_experts, self.budget = max_experts, budget
        self.called, self.spent = [], 0.0
        count = len(table.experts)
        most_expensive = max(float(np.mean(table.cost[:, e], dtype=np.float64)) for e in range(count))
        self.compute = table.cost[row] / most_expensive
        self.price = [
            float(np.mean(table.cost[:, e], dtype=np.float64)) / most_expensive for e in range(count)
        ]
        self.answer = table.probabilities[row].argmax(axis=1)
        self.after = followed_by(table.experts)

    def ready(self, expert):
        return self.after[expert] < 0 or self.after[expert] in self.called

    def available(self):
        free = [e for e in range(len(self.alive)) if self.alive[e] and e not in self.called and self.ready(e)]
        if len(self.called) == self.max_experts:
            return []
        if self.budget is None:
            return free
        within = [e for e in free if self.spent + self.price[e] <= self.budget]
        return within or ([] if self.called else [min(free, key=lambda e: self.price[e])])

    def voted(self):
        answers = [self.answer[e] for e in self.called]
        rank = {
            e: (answers.count(self.answer[e]), self.table.confidence[self.row, e], -e) for e in self.called
        }
        return max(self.called, key=rank.__getitem__)

    def step(self, action):
        count = len(self.alive)
        if action < count:
            if action not in self.available():
                return 0.0, True
            self.called.append(action)
            self.spent += float(self.compute[action])
            return -self.weight * float(self.compute[action]), False
        given = self.voted() if action == 2 * count and self.called else action - count
        return (float(self.table.quality[self.row, given]) if given in self.called else 0.0), True

    def observation(self):
        count, ask = len(self.alive), self.available()
        called = [float(e in self.called) for e in range(count)]
        sure = [float(self.table.confidence[self.row, e]) * called[e] for e in range(count)]
        pairs = [
            (1.0 if self.answer[e] == self.answer[f] else -1.0) if called[e] and called[f] else 0.0
            for e, f in itertools.combinations(range(count), 2)
        ]
        seen = [*self.table.features[self.row], *called, *sure, *(float(e in ask) for e in range(count))]
        return np.array([*seen, *pairs, self.weight], dtype=np.float32)


@pytest.fixture
def sure_table(make_table):
    def make(experts=3, **changes):
        table = make_table(experts)
        return make_table(experts, confidence=table.probabilities.max(axis=2), **changes)

    return make


NAMES = [["a", "b", "c", "d"], ["a", "b", "a#2", "a?b"], ["a", "a#2", "a#3", "a#2?b"]]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("config", CONFIGS)
def test_the_core_is_the_slow_cascade(sure_table, config, names):
    table = dataclasses.replace(sure_table(4), experts=names)
    train = table.part("train")
    core = build_cascade(table, 5, **config)
    core.reset(3)
    generator = torch.Generator().manual_seed(0)
    rules = {name: value for name, value in config.items() if name in ("max_experts", "budget")}
    state = core.state

    def slow(lane):
        s = core.state
        return SlowCascade(train, int(s.row[lane]), float(s.weight[lane]), s.alive[lane].tolist(), **rules)

    twins = [slow(lane) for lane in range(5)]
    ends = illegal = 0
    for _ in range(60):
        seen = core.observation().numpy()
        for lane, twin in enumerate(twins):
            np.testing.assert_allclose(seen[lane], twin.observation(), rtol=1e-6, atol=1e-7)
            mask = core.action_mask()[lane].tolist()
            assert [e for e in range(4) if mask[e]] == twin.available()
            assert [e for e in range(4) if mask[4 + e]] == sorted(twin.called)
            assert mask[8] == bool(twin.called)
        actions = torch.randint(0, 9, (5,), generator=generator)
        illegal += int((~core.action_mask().gather(1, actions[:, None])).sum())
        step = core.step(actions)
        for lane, twin in enumerate(twins):
            reward, ended = twin.step(int(actions[lane]))
            assert float(step.reward[lane]) == pytest.approx(reward, abs=1e-6)
            assert bool(step.terminated[lane]) == ended
        ends += int(step.terminated.sum())
        core.clear(step.terminated)
        twins = [slow(lane) if ended else twins[lane] for lane, ended in enumerate(step.terminated.tolist())]
    assert ends > 30
    assert illegal > 10
    assert (core.state.drawn > state.drawn).all()


def test_every_compute_weight_and_failure_is_drawn(sure_table):
    core = build_cascade(sure_table(), 400, compute_weights=(0.1, 0.3), failure=0.3)
    core.reset(0)
    assert 0.4 < float((core.state.weight == 0.3).float().mean()) < 0.6
    dead = float((~core.state.alive).float().mean())
    assert 0.25 < dead < 0.33
    assert core.state.alive.any(dim=1).all()
    first = core.state.alive.clone()
    core.reset()
    assert (core.state.alive != first).any()
    core.reset(0)
    assert core.state.alive.equal(first)


def test_ties_of_the_vote_go_to_confidence_then_to_the_lowest(make_table):
    probabilities = np.full((23, 4, 3), 0.1, dtype=np.float32)
    # Two say 0 and two say 1; expert 3 is the surest, then 0 and 2 alike.
    for expert, (answer, sure) in enumerate([(0, 0.6), (0, 0.5), (1, 0.6), (1, 0.8)]):
        probabilities[:, expert] = (1.0 - sure) / 2.0
        probabilities[:, expert, answer] = sure
    table = dataclasses.replace(
        make_table(4),
        probabilities=probabilities,
        label=np.zeros(23),
        quality=probabilities.argmax(2) == 0,
        confidence=probabilities.max(axis=2),
    )
    core = build_cascade(table, 3, max_experts=4)
    core.reset(0)
    called = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 0]]) > 0
    core.state = core.state._replace(called=called)
    step = core.step(torch.full((3,), 8))
    # Tied two to two: the surest, expert 3, is wrong. One to one and equally sure: the lowest. Two to one.
    assert step.reward.tolist() == [0.0, 1.0, 1.0]


def hand_solved():
    """Two experts, four queries alike but for the cheap expert's confidence: .9 where right, .1 where wrong.

    Costs are .1 and .5, and .5 is the highest mean cost: compute .2 and 1. With compute weight .5 a call
    costs .1 and .5. Call the cheap expert (-.1). If it is confident (half the time) give its answer for 1,
    else call the expensive one (-.5) and give that answer for 1: (1 + .5) / 2 - .1 = .65. The expensive
    expert only gets .5, the cheap one only .4.
    """
    right = np.array([1, 0, 1, 0] * 3)
    return OutcomeTable(
        experts=["cheap", "expensive"],
        query_id=range(12),
        features=np.ones((12, 1)),
        quality=np.column_stack([right, np.ones(12)]),
        cost=np.tile([0.1, 0.5], (12, 1)),
        confidence=np.column_stack([np.where(right, 0.9, 0.1), np.full(12, 0.8)]),
        split=["train"] * 4 + ["validation"] * 4 + ["test"] * 4,
    )


def optimum(core):
    """Value iteration over what can be seen: the rows that look alike share one decision."""
    table, experts = core.table, core.experts
    rows = range(table.outcomes.queries)
    states = {}
    for size in range(experts, -1, -1):
        for members in itertools.combinations(range(experts), size):
            groups = {}
            for row in rows:
                seen = tuple(round(float(table.confidence[row, e]), 6) for e in members)
                groups.setdefault(seen, []).append(row)
            for group in groups.values():
                options = [table.outcomes.quality[group, e].mean().item() for e in members]
                for e in set(range(experts)) - set(members):
                    later = tuple(sorted((*members, e)))
                    worth = np.mean([states[later, row] for row in group])
                    options.append(worth - 0.5 * table.outcomes.compute[group, e].mean().item())
                for row in group:
                    states[members, row] = max(options)
    return float(np.mean([states[(), row] for row in rows]))


def test_the_hand_solved_case():
    table = hand_solved()
    core = build_cascade(table, 4, compute_weights=(0.5,), split="test")
    assert optimum(core) == pytest.approx(0.65, abs=1e-6)
    core.begin(torch.arange(4), 0.5)
    earned = core.step(torch.zeros(4, dtype=torch.int64)).reward
    sure = core.observation()[:, 3] > 0.5  # after one feature and the called experts
    earned = earned + core.step(torch.where(sure, 2, 1)).reward
    left = core.step(torch.where(sure, 2, 3)).reward * ~sure
    assert float((earned + left).mean()) == pytest.approx(0.65, abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_scalar_env_passes_both_checkers(sure_table, config):
    env = gymnasium.make(ID, table=sure_table(), **config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped)
        sb3_check(env.unwrapped)
    assert env.unwrapped.action_masks().shape == (7,)
    env.close()


def test_the_scalar_env_is_row_0_of_the_others(sure_table):
    table, settings = sure_table(), {"compute_weights": (0.1, 0.4), "failure": 0.2}
    scalar = gymnasium.make(ID, table=table, **settings).unwrapped
    many = gymnasium.make_vec(
        ID, num_envs=3, vectorization_mode="vector_entry_point", table=table, **settings
    )
    sb3 = SB3VecEnv(build_cascade(table, 3, **settings))
    seen, _ = scalar.reset(seed=9)
    observation, _ = many.reset(seed=9)
    sb3.seed(9)
    np.testing.assert_array_equal(observation[0], seen)
    np.testing.assert_array_equal(sb3.reset(), observation)
    many.action_space.seed(0)
    ends = 0
    for _ in range(40):
        assert many.observation_space.contains(observation)
        actions = many.action_space.sample()
        seen, reward, terminated, _, info = scalar.step(actions[0])
        observation, rewards, terminations, _, infos = many.step(actions)
        stacked, paid, dones, _ = sb3.step(actions)
        assert (reward, terminated) == (rewards[0], terminations[0])
        np.testing.assert_array_equal(paid, rewards.astype(np.float32))
        np.testing.assert_array_equal(dones, terminations)
        for name, part in info.items():
            np.testing.assert_array_equal(infos[name][0], part)
        if terminated:
            ends += 1
            np.testing.assert_array_equal(infos["final_obs"][0], seen)
            seen, _ = scalar.reset()
        np.testing.assert_array_equal(observation[0], seen)
        np.testing.assert_array_equal(stacked, observation)
    assert ends > 10


def test_a_state_goes_on_exactly(sure_table):
    core = build_cascade(sure_table(), 6, failure=0.3)
    core.reset(1)
    core.step(torch.zeros(6, dtype=torch.int64))
    other = build_cascade(sure_table(), 6, failure=0.3)
    other.load_state_dict(core.state_dict())
    actions = torch.tensor([0, 1, 2, 3, 4, 6])
    for one in (core, other):
        one.clear(one.step(actions).terminated)
    assert core.observation().equal(other.observation())


def test_without_answers_nothing_agrees_and_there_is_no_majority(make_table):
    confidence = np.full((23, 3), 0.5)
    table = make_table(probabilities=False, confidence=confidence)
    core = build_cascade(table, 2)
    core.reset(0)
    for action in (0, 1):
        core.step(torch.full((2,), action))
    assert core.observation()[:, -4:-1].abs().sum() == 0
    assert core.action_mask()[:, -1].tolist() == [False, False]
    assert core.step(torch.full((2,), 6)).reward.tolist() == [0.0, 0.0]


def test_a_follow_up_can_be_called_after_what_it_follows_alone(sure_table):
    core = build_cascade(dataclasses.replace(sure_table(4), experts=NAMES[1]), 2)
    core.reset(0)
    assert core.action_mask()[0, :4].tolist() == [True, True, False, False]
    early = core.step(torch.tensor([2, 0]))
    assert early.terminated.tolist() == [True, False]
    assert early.reward[0] == 0.0
    assert core.action_mask()[1, :4].tolist() == [False, True, True, True]


def test_answers_alone_show_who_agrees_and_every_confidence_is_a_half(make_table):
    answers = {f"answer/expert{e}": ["A" if e % 2 else " b "] for e in range(2)}
    columns = {name: pa.array(given * 23) for name, given in answers.items()}
    columns["answer/expert2"] = pa.array([None, "B"] + [" B"] * 21)
    core = build_cascade(make_table(probabilities=False, extra=pa.table(columns)), 2, split=None)
    core.begin(torch.tensor([0, 1]), 0.1)
    for expert in range(3):
        core.step(torch.full((2,), expert))
    seen = core.observation()
    assert (seen[:, 6:9] == 0.5).all()
    # Pairs 0-1, 0-2, 1-2: a missing answer agrees with none; case and white space make no difference.
    assert seen[:, -4:-1].tolist() == [[-1.0, -1.0, -1.0], [-1.0, 1.0, -1.0]]
    assert core.action_mask()[:, -1].tolist() == [True, True]


def test_mistakes_are_named(make_table):
    with pytest.raises(InputError, match="no confidence to observe; add confidence/<expert> columns"):
        build_cascade(make_table(probabilities=False), 1)
    holed = np.full((23, 3), 0.5)
    holed[4, 1] = np.nan
    with pytest.raises(InputError, match="row 4, expert 'expert1' is not in"):
        build_cascade(make_table(confidence=holed), 1)
    for settings, name in (
        ({"max_experts": 0}, "max_experts"),
        ({"budget": 0.0}, "budget"),
        ({"failure": 1.0}, "failure"),
        ({"compute_weights": ()}, "compute_weights"),
        ({"compute_weights": (-1.0,)}, "compute_weights"),
    ):
        with pytest.raises(InputError, match=name):
            CascadeConfig(**settings)
    table = CascadeTable.of(make_table(), 1.0)
    with pytest.raises(InputError, match="lanes"):
        CascadeCore(table, CascadeConfig(), 0)
