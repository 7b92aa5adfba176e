"""Engines and APIs in the environment: lengths, units, forks, saved states, episodes, and wrong options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from envs import QueueingConfig, build_queueing
from envs.request_lengths import request_lengths
from envs.traces import Arrivals, open_arrivals, split_arrivals
from experts import InputError
from experts.llm.server_options import ApiOptions, ContinuousOptions

KINDS = ("continuous", "api")


def trace(count=120, seed=0):
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(1, 900, count), rng.integers(1, 90, count)], axis=1)
    return Arrivals(name="made", arrival_s=rng.exponential(1.0, count).cumsum(), tokens=tokens.astype(float))


def built(make_table, kind, lanes=3, **options):
    settings = {
        "window": 30,
        "load": 1.2,
        "miss_weight": 0.5,
        "first_deadlines": (0.5,),
        "continuous": ContinuousOptions(kv_tokens=2_000, max_seqs=4, chunk=256),
        "api": ApiOptions(burst_s=5.0, failure_rate=0.2, straggler_rate=0.2),
        **options,
    }
    return build_queueing(make_table(), lanes, arrivals=trace(), split=None, servers=kind, **settings)


def actions(core, steps, seed=3):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, core.experts, (steps, core.lanes)))


@pytest.mark.parametrize("kind", KINDS)
def test_forks_and_saved_states_continue_exactly(make_table, kind):
    core = built(make_table, kind)
    chosen = actions(core, 30)
    for action in chosen[:12]:
        core.step(action)
    fork = core.fork(torch.tensor([2, 0, 2]))
    saved = {name: value.clone() for name, value in core.state_dict().items()}
    other = built(make_table, kind)
    other.load_state_dict(saved)
    left = core.settle()
    torch.testing.assert_close(fork.settle(), left[[2, 0, 2]])
    for action in chosen[12:]:
        step, forked, loaded = (
            each.step(action if each is not fork else action[[2, 0, 2]]) for each in (core, fork, other)
        )
        assert loaded.reward.equal(step.reward)
        assert forked.reward.equal(step.reward[[2, 0, 2]])
        assert other.observation().equal(core.observation())
        assert fork.observation().equal(core.observation()[[2, 0, 2]])
    assert step.terminated.all()
    assert not core.settle().any()  # the last step pays for all


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_fork_settles_is_what_it_pays_if_nothing_follows(make_table, kind):
    """Without later requests at an engine, a request pays at the end what `settle` says now."""
    core = built(make_table, kind, lanes=2)
    core.step(torch.tensor([0, 1]))
    left = core.settle()
    paid = torch.zeros(2, dtype=torch.float64)
    for _ in range(29):
        step = core.step(torch.tensor([2, 2]))
        paid += 0.5 * step.parts["lateness"].double() + 0.5 * step.parts["missed"].double()
    others = torch.zeros(2, dtype=torch.float64)
    episodes = core.state.episodes
    for request in range(1, 30):
        over = (core.responses()[:, request] - episodes.deadline[:, request]).clamp(min=0)
        first = (core.first_tokens()[:, request] - episodes.first_deadline[:, request]).clamp(min=0)
        late = over / episodes.deadline[:, request] + first / episodes.first_deadline[:, request]
        others += 0.5 * late + 0.5 * ((over > 0) | (first > 0))
    if kind == "continuous":
        torch.testing.assert_close(paid, left + others, rtol=1e-5, atol=1e-6)
    else:
        assert not left.any()
        torch.testing.assert_close(paid, others, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"mean_up": 6.0, "mean_repair": 2.0}])
@pytest.mark.parametrize("kind", ["queue", *KINDS])
def test_immediate_rewards_have_the_same_sum(make_table, kind, options):
    """Over two episodes; at an engine, a request pays at once for what it adds if no other follows."""
    settings = {"first_deadlines": (), **options} if kind == "queue" else options
    core, other = built(make_table, kind, **settings), built(make_table, kind, **settings)
    assert other.immediate() is other
    differ = 0
    for _ in range(2):
        sums = torch.zeros(2, core.lanes, dtype=torch.float64)
        for action in actions(core, 30):
            before = core.settle()
            step, now = core.step(action), other.step(action)
            expected = step.reward.double() + before - core.settle()
            torch.testing.assert_close(now.reward.double(), expected, rtol=1e-5, atol=1e-5)
            for name, part in step.parts.items():
                assert now.parts[name].equal(part)
            sums += torch.stack([step.reward, now.reward])
            differ += int((step.reward != now.reward).sum())
        torch.testing.assert_close(sums[0], sums[1], rtol=1e-5, atol=1e-4)
        for each in (core, other):
            each.clear(step.terminated)
    assert (differ > 0) == (kind == "continuous")


def test_an_immediate_core_forks_resets_and_resumes(make_table):
    def made():
        return built(make_table, "continuous").immediate()

    core, chosen = made(), actions(made(), 30)
    for action in chosen[:12]:
        core.step(action)
    fork, other = core.fork(torch.tensor([2, 0])), made()
    other.load_state_dict({name: value.clone() for name, value in core.state_dict().items()})
    reward = core.step(chosen[12]).reward
    torch.testing.assert_close(other.step(chosen[12]).reward, reward)
    torch.testing.assert_close(fork.step(chosen[12][[2, 0]]).reward, reward[[2, 0]])
    fresh = made()
    for again in (lambda each: each.reset(seed=0), lambda each: each.reset()):
        again(core)
        again(fresh)  # of another history
        for action in chosen[:5]:
            torch.testing.assert_close(core.step(action).reward, fresh.step(action).reward)
    for action in chosen[5:20]:
        core.step(action)
    core.clear(torch.tensor([True, False, True]))  # in the middle of an episode
    plain = built(make_table, "continuous")
    plain.load_state_dict({name: value.clone() for name, value in core.state_dict().items()})
    before = plain.settle()
    assert (before > 0).tolist() == [False, True, False]
    expected = plain.step(chosen[20]).reward.double() + before - plain.settle()
    torch.testing.assert_close(core.step(chosen[20]).reward.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_begin_idle_and_stay_in_the_observation_space(make_table, kind):
    core = built(make_table, kind)
    experts, features = core.experts, core.outcomes.features.shape[1]
    assert core.observation_space.shape == (features + 7 * experts + 8,)
    for _ in range(2):
        first = core.observation()
        assert not first[:, features : features + 3 * experts].any()
        assert not first[:, features + 3 * experts + 6 :][:, : 2 * experts].any()
        for action in actions(core, 30):
            assert all(core.observation_space.contains(row.numpy()) for row in core.observation())
            step = core.step(action)
        assert core.responses().isfinite().all()
        assert (core.first_tokens() <= core.responses() + 1e-9).all()
        core.clear(step.terminated)


@pytest.mark.parametrize("kind", KINDS)
def test_lanes_of_a_group_get_the_same_requests_and_luck(make_table, kind):
    core = built(make_table, kind, lanes=4, group=2)
    episodes = core.state.episodes
    assert episodes.tokens[0].equal(episodes.tokens[1])
    assert not episodes.tokens[0].equal(episodes.tokens[2])
    assert episodes.luck[0].equal(episodes.luck[1])


def test_lengths_are_those_of_the_traces_requests_times_each_experts_ratio(make_table):
    arrivals = trace()
    table = replace(make_table(), tokens_out=np.array([[10.0, 20.0, 30.0]] * len(make_table())))
    lengths = request_lengths(table, arrivals)
    assert lengths.by_trace
    assert len(lengths.tokens) == len(arrivals.arrival_s) - 1
    assert lengths.tokens[:, 1, 1].tolist() == arrivals.tokens[1:, 1].tolist()
    assert lengths.tokens[:, 0, 1].tolist() == (arrivals.tokens[1:, 1] * 0.5).round().clip(1).tolist()
    core = build_queueing(table, 1, arrivals=arrivals, split=None, servers="api", window=20)
    gaps = np.diff(arrivals.arrival_s)
    scale = core.gap / gaps.mean()
    between = core.state.episodes.arrival[0].diff().numpy() / scale
    place = int(np.abs(gaps - between[0]).argmin())
    prompt = core.state.episodes.tokens[0, 1, 1, 0]
    assert float(prompt) == arrivals.tokens[place + 1, 0]


def test_lengths_without_a_trace_of_them_are_the_tables(make_table):
    table = make_table()
    counts = np.tile(np.arange(len(table), dtype=np.float32)[:, None] + 5, (1, 3))
    table = replace(table, tokens_in=counts, tokens_out=counts + 7)
    core = build_queueing(table, 2, split=None, servers="api", window=10)
    row = core.state.episodes.row
    assert core.state.episodes.tokens[..., 0, 0].equal(row.double() + 5)
    assert core.state.episodes.tokens[..., 2, 1].equal(row.double() + 12)
    with pytest.raises(InputError, match="has no token counts, nor has the table"):
        build_queueing(make_table(), 2, split=None, servers="api")


def test_a_trace_keeps_its_lengths_in_files_parts_and_jitter(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = trace()
    columns = {"arrival_s": made.arrival_s, "tokens_in": made.tokens[:, 0], "tokens_out": made.tokens[:, 1]}
    pq.write_table(pa.table(columns), tmp_path / "trace.parquet")
    read = open_arrivals(tmp_path / "trace.parquet")
    assert (read.tokens == made.tokens).all()
    test = split_arrivals(tmp_path / "trace.parquet", "test")
    assert (test.tokens == made.tokens[90:]).all()
    spread = read.jittered(0.0)
    assert (spread.tokens == made.tokens).all()
    pq.write_table(pa.table({"arrival_s": made.arrival_s}), tmp_path / "bare.parquet")
    assert open_arrivals(tmp_path / "bare.parquet").tokens is None


def test_units_by_hand(make_table):
    arrivals = Arrivals(name="even", arrival_s=np.arange(9.0), tokens=np.array([[100.0, 11.0]] * 9))
    options = ContinuousOptions(
        step_s=0.1, sequence_s=0.0, context_s=0.0, prefill_s=0.001, kv_tokens=10_000, max_seqs=4, chunk=64
    )
    core = build_queueing(
        make_table(), 1, arrivals=arrivals, split=None, servers="continuous", continuous=options, load=0.5
    )
    # Two chunks of 0.1 s and 100 tokens; ten further tokens. At capacity, 4 sequences share each step.
    assert core.units.service == pytest.approx([0.3 + 10 * 0.1] * 3)
    assert core.units.batch_service == pytest.approx([11 * 0.1 / 4 + 0.1] * 3)
    assert core.gap == pytest.approx((11 * 0.1 / 4 + 0.1) / 3 / 0.5)
    api = ApiOptions(
        requests_per_minute=30.0, input_per_minute=1_000.0, output_per_minute=0.0, failure_rate=0.0
    )
    core = build_queueing(make_table(), 1, arrivals=arrivals, split=None, servers="api", api=api, load=0.5)
    assert core.units.batch_service == pytest.approx([6.0] * 3)  # 10 prompts of 100 tokens a minute


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"servers": "continuous", "replicas": 2}, "replicas"),
        ({"servers": "api", "batch": 2}, "batch"),
        ({"servers": "queue", "first_deadlines": (1.0,)}, "first_deadlines"),
        ({"servers": "api", "first_deadlines": (1.0, 2.0)}, "first_deadlines"),
        ({"servers": "engine"}, "servers"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(InputError, match=words):
        QueueingConfig(**options)


def test_lists_of_another_length_are_named(make_table):
    with pytest.raises(InputError, match=r"continuous\.step_s"):
        built(make_table, "continuous", continuous=ContinuousOptions(step_s=(0.1, 0.2)))
    with pytest.raises(InputError, match=r"api\.burst_s"):
        built(make_table, "api", api=ApiOptions(burst_s=(1.0, 2.0, 3.0, 4.0)))
    with pytest.raises(InputError, match="failure_rate"):
        ApiOptions(failure_rate=0.95)
