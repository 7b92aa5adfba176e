"""The session process: a slow twin, a switch by hand, the conversations, and the adapters."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from envs import Conversations, SB3VecEnv, SessionConfig, build_session
from experts import InputError, OutcomeTable

ID = "RouterRL/Session-v0"
SHORT = Conversations.generated(40, turns=5.0, gap_s=100.0, seed=3)
CONFIGS = [
    {},
    {"prices": (0.5, 2.0, 3.0, 5.0), "write_share": (1.25,), "cached_share": (0.1, 0.5, 0.25, 1.0)},
    {"expiry_s": (30.0, 60.0, 120.0, 1e6), "output_share": (0.0,), "persistence": 0.2},
]


class SlowSession:
    """One lane as the docstring specifies it, in Python numbers: each expert's cache is a list of prompts."""

    def __init__(self, table, conversations, config):
        self.table, self.talk, self.config = table, conversations, config
        count = len(table.experts)
        mean = [float(np.mean(table.cost[:, e], dtype=np.float64)) for e in range(count)]
        base = config.prices or [each / max(mean) for each in mean]

        def each(values):
            return list(values) * count if len(values) == 1 else list(values)

        self.missed = [p * w / 1e6 for p, w in zip(base, each(config.write_share), strict=True)]
        self.hit = [p * c / 1e6 for p, c in zip(base, each(config.cached_share), strict=True)]
        self.out = [p * o / 1e6 for p, o in zip(base, each(config.output_share), strict=True)]
        self.life = each(config.expiry_s)
        self.unit = max(self.throughout(e) for e in range(count))

    def throughout(self, e):
        """The mean cost of a turn where one expert answers all turns."""
        total = 0.0
        for first, turns in zip(self.talk.first, self.talk.turns, strict=True):
            self.start(int(first))
            for _ in range(turns):
                total += self.cost(e, self.talk.output[self.at])
                self.answer(e)
        return total / len(self.talk.context)

    def start(self, place):
        self.at, self.turn, self.switches, self.last = place, 0, 0, None
        self.clock = 0.0
        self.used = {}  # by expert: the turn and the second of its last use

    def tokens(self, e):
        """Tokens of the prompt that an expert has cached: the shortest prefix shared since it was used."""
        if e not in self.used:
            return 0.0
        place, second = self.used[e]
        if self.clock - second > self.life[e]:
            return 0.0
        return min([self.talk.context[place], *self.talk.shared[place + 1 : self.at + 1]])

    def cost(self, e, output):
        cached = self.tokens(e)
        missed = self.talk.context[self.at] - cached
        return missed * self.missed[e] + cached * self.hit[e] + output * self.out[e]

    def answer(self, e):
        if self.last not in (None, e):
            self.switches += 1
        self.used[e], self.last = (self.at, self.clock), e
        self.turn += 1
        if self.at + 1 < len(self.talk.gap_s):
            self.at += 1
            self.clock += self.talk.gap_s[self.at]


@pytest.mark.parametrize("config", CONFIGS)
def test_the_core_is_the_slow_session(make_table, config):
    table = make_table(4, group=np.arange(23) % 3)
    core = build_session(table, 3, sessions=SHORT, **config)
    core.reset(5)
    twins = [SlowSession(table.part("train"), SHORT, core.config) for _ in range(3)]
    for lane, twin in enumerate(twins):
        assert twin.unit == pytest.approx(core.table.scale, rel=1e-6)
        twin.start(int(core.state.place[lane]))
    generator, ends, lost = torch.Generator().manual_seed(0), 0, 0
    for _ in range(60):
        rows, observation = core.state.row.tolist(), core.observation()
        assert core.observation_space.contains(observation[0].numpy())
        for lane, twin in enumerate(twins):
            context = SHORT.context[twin.at]
            cached, idle, last, cost, _ = observation[lane, 3:23].reshape(5, 4)
            tokens = [twin.tokens(e) for e in range(4)]
            lost += sum(e in twin.used and not tokens[e] for e in range(4))
            np.testing.assert_allclose(cached, np.array(tokens) / context, atol=1e-6)
            spent = [(twin.clock - twin.used[e][1]) / twin.life[e] if tokens[e] else 1.0 for e in range(4)]
            np.testing.assert_allclose(idle, spent, atol=1e-5)
            assert last.tolist() == [float(e == twin.last) for e in range(4)]
            mean = SHORT.output.mean()
            costs = [twin.cost(e, mean) / twin.unit for e in range(4)]
            np.testing.assert_allclose(cost, costs, rtol=1e-4)
            reused = SHORT.shared[twin.at] / context
            scalars = [np.log2(context), reused, twin.turn, twin.switches]
            np.testing.assert_allclose(observation[lane, 23:], scalars, rtol=1e-5, atol=1e-6)
        actions = torch.randint(0, 4, (3,), generator=generator)
        step = core.step(actions)
        for lane, twin in enumerate(twins):
            e, place = int(actions[lane]), twin.at
            compute = twin.cost(e, SHORT.output[place]) / twin.unit
            quality = float(table.part("train").quality[rows[lane], e])
            assert float(step.parts["compute"][lane]) == pytest.approx(compute, rel=1e-4)
            missed = SHORT.context[place] - twin.tokens(e)
            assert float(step.parts["missed_tokens"][lane]) == pytest.approx(missed, abs=0.1)
            assert float(step.parts["switched"][lane]) == float(twin.last not in (None, e))
            reward = quality - core.config.compute_weight * compute
            assert float(step.reward[lane]) == pytest.approx(reward, abs=1e-4)
            twin.answer(e)
            starts = twin.at in SHORT.first or place + 1 == len(SHORT.context)
            assert bool(step.terminated[lane]) == starts
        core.clear(step.terminated)
        for lane in step.terminated.nonzero().flatten().tolist():
            ends += 1
            twins[lane].start(int(core.state.place[lane]))
    assert ends > 10
    assert lost > 3 or min(core.config.expiry_s) > 200  # caches expired


def two_turns() -> Conversations:
    """One conversation of 1,000 and 1,500 tokens, 10 s apart."""
    return Conversations(
        context=np.array([1000.0, 1500.0]),
        shared=np.array([0.0, 1000.0]),
        output=np.array([100.0, 200.0]),
        gap_s=np.array([0.0, 10.0]),
        first=np.array([0]),
        turns=np.array([2]),
    )


def test_a_switch_by_hand(make_table):
    """Prices are 1 and 2 US$ a million tokens; the unit is a turn of the second where it answers both."""
    options = {"prices": (1.0, 2.0), "cached_share": (0.1,), "output_share": (5.0,), "compute_weight": 1.0}
    unit = (2 * (1000 + 500 + 0.1 * 1000) + 10 * 300) / 2
    for actions, costs in {
        (1, 1): (2 * 1000 + 10 * 100, 2 * (500 + 0.1 * 1000) + 10 * 200),
        (0, 1): (1000 + 5 * 100, 2 * 1500 + 10 * 200),
        (1, 0): (2 * 1000 + 10 * 100, 1500 + 5 * 200),
    }.items():
        core = build_session(make_table(2), 1, sessions=two_turns(), **options)
        assert core.table.scale == pytest.approx(unit / 1e6)
        steps = [core.step(torch.tensor([action])) for action in actions]
        assert [float(step.parts["compute"]) for step in steps] == pytest.approx([c / unit for c in costs])
        assert [bool(step.terminated) for step in steps] == [False, True]
        assert [float(step.parts["switched"]) for step in steps] == [0.0, float(actions[0] != actions[1])]


def test_an_expired_cache_is_paid_again(make_table):
    for life, cached in ((9.0, 0.0), (11.0, 1000.0)):
        core = build_session(make_table(2), 1, sessions=two_turns(), expiry_s=(life,))
        core.step(torch.tensor([1]))
        assert core.state.cached.tolist() == [[0.0, cached]]


def test_a_cache_holds_what_the_next_prompts_share_with_it(make_table):
    """The conversation branches: only 400 of the first prompt's tokens, then 100, are in common."""
    talk = Conversations(
        context=np.array([1000.0, 1500.0, 2000.0]),
        shared=np.array([0.0, 400.0, 100.0]),
        output=np.ones(3),
        gap_s=np.array([0.0, 10.0, 10.0]),
        first=np.array([0]),
        turns=np.array([3]),
    )
    core = build_session(make_table(2), 1, sessions=talk)
    core.step(torch.tensor([1]))
    assert core.state.cached.tolist() == [[0.0, 400.0]]
    core.step(torch.tensor([0]))
    assert core.state.cached.tolist() == [[100.0, 100.0]]


def test_topics_persist(make_table):
    table = make_table(group=np.arange(23) % 3)
    core = build_session(table, 200, sessions=SHORT, persistence=0.8)
    core.reset(0)
    same, total = 0.0, 0
    for _ in range(60):
        before = core.state.topic
        step = core.step(torch.zeros(200, dtype=torch.int64))
        goes_on = ~step.terminated
        same += float((core.state.topic == before)[goes_on].sum())
        total += int(goes_on.sum())
        core.clear(step.terminated)
    assert same / total == pytest.approx(0.8 + 0.2 / 3, abs=0.02)
    assert core.state.topic.unique().tolist() == [0, 1, 2]


def test_generated_conversations_have_the_published_moments():
    facts = Conversations.generated(4_000, seed=1).facts()
    assert facts["turns_median"] == pytest.approx(33, abs=1)
    assert facts["input_per_output"] == pytest.approx(131, rel=0.05)
    assert facts["cacheable"] == pytest.approx(0.942, abs=0.01)
    talk = Conversations.generated(4_000, seed=1)
    at_30 = talk.context[talk.first[talk.turns >= 30] + 29].mean()
    assert at_30 == pytest.approx(80_000, rel=0.03)


def test_a_trace_by_hand(tmp_path):
    """Requests 0, 2 and 4 are one conversation, 1 and 5 another; 3 shares the system block only."""
    requests = [
        (0.0, 1300, [0, 1, 2]),
        (1.0, 1200, [0, 10, 11]),
        (5.0, 2000, [0, 1, 3, 4]),
        (6.0, 600, [0, 20]),
        (9.0, 2500, [0, 1, 3, 5, 6]),
        (10.0, 1100, [0, 10, 12]),
    ]
    arrival, tokens, blocks = zip(*requests, strict=True)
    columns = {"arrival_s": arrival, "tokens_in": tokens, "tokens_out": [7.0] * 6, "hash_ids": blocks}
    pq.write_table(pa.table(columns), tmp_path / "trace.parquet")
    talk = Conversations.read(tmp_path / "trace.parquet")
    assert talk.turns.tolist() == [3, 2, 1]
    assert talk.context.tolist() == [1300, 2000, 2500, 1200, 1100, 600]
    assert talk.shared.tolist() == [0, 1024, 1536, 0, 1024, 0]
    assert talk.gap_s.tolist() == [0, 5, 4, 0, 9, 0]
    assert talk.part(0.0, 0.5).turns.tolist() == [3]
    with pytest.raises(InputError, match="there is no conversation"):
        talk.part(0.5, 0.5)


@pytest.mark.parametrize("config", CONFIGS)
def test_the_scalar_env_passes_both_checkers(make_table, config):
    env = gymnasium.make(ID, table=make_table(4), sessions=SHORT, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env.unwrapped)
        sb3_check(env.unwrapped)
    env.close()


def test_the_scalar_env_is_row_0_of_the_others(make_table):
    settings = {"table": make_table(4), "sessions": SHORT}
    scalar = gymnasium.make(ID, **settings).unwrapped
    many = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="vector_entry_point", **settings)
    sb3 = SB3VecEnv(build_session(lanes=3, **settings))
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
    assert ends >= 2


def test_mistakes_are_named(make_table, tmp_path):
    for settings, name in (
        ({"prices": (0.0, 1.0)}, "prices"),
        ({"persistence": 2.0}, "persistence"),
        ({"expiry_s": ()}, "expiry_s"),
        ({"cached_share": (1.5,)}, "cached_share"),
        ({"compute_weight": -1.0}, "compute_weight"),
    ):
        with pytest.raises(InputError, match=name):
            SessionConfig(**settings)
    with pytest.raises(InputError, match="there are 3 experts; give one number, or 3"):
        build_session(make_table(), 1, expiry_s=(1.0, 2.0))
    with pytest.raises(InputError, match=r"prices=.*there are 3 experts; give 3, or none"):
        build_session(make_table(), 1, prices=(1.0, 2.0))
    with pytest.raises(InputError, match="sessions='agents': no such file"):
        build_session(make_table(), 1, sessions="agents")
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"arrival_s": [0.0]}), path)
    with pytest.raises(InputError, match="has no readable columns arrival_s, tokens_in"):
        build_session(make_table(), 1, sessions=path)
    with pytest.raises(InputError, match=r"sessions\.context=0\.0: turn 0 is not a number of at least 1"):
        Conversations(
            **{name: np.zeros(1) for name in ("context", "shared", "output", "gap_s")},
            first=np.array([0]),
            turns=np.array([1]),
        )


def test_a_table_without_groups_has_one_topic(make_table):
    core = build_session(make_table(), 4, sessions=SHORT)
    assert core.table.topics.count.tolist() == [19]
    assert isinstance(make_table(), OutcomeTable)
