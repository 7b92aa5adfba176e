"""Rules do what they say, the bound is one, the search does not lose, and the exported policy acts alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.caching import CachingCore
from experts import InputError, OutcomeTable
from router_rl.exports.policy_files import write_policy
from router_rl.methods.caching import cache_rules as rules
from router_rl.methods.caching import cache_search as search
from router_rl.methods.caching.cache_search import SearchHyperparameters
from router_rl.methods.caching.kind import CACHING
from router_rl.methods.environments import problem_of
from router_rl.problems.caching.cache_episodes import Weights, play_served, utilities
from router_rl.problems.caching.problem import _of_topic, cases_of, prepare
from router_rl.routing import RouterError
from router_rl.routing.policies.policy_storage import load_policy

SETTINGS = {"wait_weight": 3.0, "episodes": 6, "window": 48, "host_share": 0.6, "resident": (0.5, 1.0)}


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """Four experts, each right on its own topic, which the features tell."""
    rng = np.random.default_rng(0)
    rows = 240
    topic = rng.integers(0, 4, rows)
    quality = rng.random((rows, 4)) < np.where(np.arange(4) == topic[:, None], 0.9, 0.3)
    table = OutcomeTable(
        experts=["a", "b", "c", "d"],
        query_id=range(rows),
        features=np.column_stack([np.eye(4)[topic], rng.normal(size=rows)]),
        quality=quality,
        cost=np.ones((rows, 4)),
        group=topic.astype(str),
        split=["train"] * 120 + ["validation"] * 60 + ["test"] * 60,
    )
    path = tmp_path_factory.mktemp("tables") / "topics.parquet"
    table.write(path)
    return prepare(str(path), {**CACHING.options, **SETTINGS})


@pytest.fixture(scope="module")
def cases(problem):
    return cases_of(problem)


def fitted(name, problem, cases, **changes):
    return CACHING.methods[name].fit(problem, cases, 0, 1, lambda done, total, what: None)


def test_the_cases_name_the_half(cases):
    assert [case.label for case in cases] == [
        "50% of the experts' bytes resident, half",
        "100% of the experts' bytes resident",
    ]
    assert cases[0].values == {"resident_share": 0.5, "resident_gb": 2.8}


def test_without_a_lack_of_memory_all_rules_are_alike(problem, cases):
    found = {
        name: CACHING.play(problem, fitted(name, problem, cases)[1], cases[1], "test")
        for name in ("lru", "lfu", "pinned", "bonus", "index", "belady")
    }
    for name, one in found.items():
        np.testing.assert_allclose(one.utility, found["lru"].utility, atol=1e-6, err_msg=name)
        assert one.facts["waited"] == 0.0


def test_belady_loads_least_of_those_that_answer_alike(problem, cases):
    found = {
        name: CACHING.play(problem, fitted(name, problem, cases)[0], cases[0], "test").means()
        for name in ("lru", "lfu", "belady", "pinned")
    }
    assert found["belady"]["loaded_gb"] < min(found["lru"]["loaded_gb"], found["lfu"]["loaded_gb"])
    assert found["belady"]["quality"] == pytest.approx(found["lru"]["quality"])
    assert found["pinned"]["loaded_gb"] <= 0.1


def test_the_tuned_index_is_no_worse_than_what_it_was_tuned_among(problem, cases):
    found = [fitted(name, problem, cases[:1])[0].module for name in ("lru", "lfu", "index", "foresight")]
    weights = Weights(*(torch.stack([getattr(p, n) for p in found]) for n in ("answer", "keep")))
    earned = utilities(
        problem,
        0.5,
        "validation",
        found[0],
        weights,
        streams=rules._FINAL,
        seed=rules._TUNING,
    )
    assert earned[2] >= earned[:2].max() - 1e-6
    assert earned[3] >= earned[2] - 0.005  # its grid of shares is coarser


def test_what_comes_next_is_believed_by_topic(problem):
    table = problem.rows[0.5, "train"]
    topic = table.outcomes.features[:, :4].argmax(dim=1)
    for one in range(4):
        mean = table.outcomes.quality[topic == one].mean(dim=0)
        own = problem.foreseen.beliefs.prior(table.outcomes.features[topic == one]).sigmoid().mean(dim=0)
        assert own.argmax() == one
        torch.testing.assert_close(own, mean, atol=0.1, rtol=0.0)
        torch.testing.assert_close(_of_topic(table)[topic == one], mean.expand(int((topic == one).sum()), -1))


def test_the_gain_is_over_the_best_that_is_resident(problem):
    later = torch.tensor([[0.9, 0.5, 0.7, 0.8]])
    chance = torch.tensor([[0.0, 0.35, 0.2, 0.0]])

    def chosen(resident, serves):
        answer = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, serves]])
        rest = [torch.zeros(1, 4)] * 4
        held = torch.tensor([resident])
        return int(
            problem.policy(0.5).choose(chance, later, held, *rest, weights=(answer, torch.zeros(1, 5)))[0, 0]
        )

    assert chosen([0.0, 1.0, 0.0, 0.0], 0.0) == 1
    assert chosen([0.0, 1.0, 0.0, 0.0], 1.0) == 0  # .9 - .5 against .35
    assert chosen([0.0, 0.0, 0.0, 1.0], 1.0) == 1  # .9 - .8 falls short
    assert chosen([1.0, 0.0, 0.0, 0.0], 9.0) == 1  # nobody is better than who is there


def test_pinned_asks_only_those_it_holds(problem, cases):
    policy = fitted("pinned", problem, cases)[0]
    assert int(policy.module.allowed.sum()) == 2
    core = CachingCore(problem.rows[0.5, "test"], problem.configs[0.5], 3)
    _, _, answered = play_served(policy.begin(core), core)
    assert set(torch.cat(answered).tolist()) <= set(policy.module.allowed.nonzero().squeeze(1).tolist())


def test_side_by_side_is_one_after_the_other(problem):
    policy = problem.policy(0.5)
    answer = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [1.0, -0.3, 0.1, 0, 0, 0, 0.3, 1.0]])
    keep = torch.tensor([[1.0, 0, 0, 0, 0], [0.2, 1.0, 0.5, 0.1, 0.7]])
    found = utilities(problem, 0.5, "test", policy, Weights(answer, keep), streams=4, seed=7)
    for place in range(2):
        rules._set(policy, answer[place], keep[place])
        core = CachingCore(problem.rows[0.5, "test"], problem.configs[0.5], 4, seed=7)
        played, _, _ = play_served(lambda seen: policy.actions(seen)[0], core)
        assert float(found[place]) == pytest.approx(float(played.utility.mean()), abs=1e-5)


def test_the_search_starts_from_the_index_and_keeps_the_best(problem, cases, monkeypatch):
    monkeypatch.setattr(rules, "_STREAMS", 8)
    monkeypatch.setattr(rules, "_FINAL", 8)
    start = rules.foresight(problem, 0.5)
    found = search.search(problem, 0.5, SearchHyperparameters(generations=4, population=24, streams=8), seed=0)
    weights = Weights(*(torch.stack([getattr(p, n) for p in (start, found)]) for n in ("answer", "keep")))
    earned = utilities(problem, 0.5, "validation", start, weights, streams=8, seed=rules._TUNING)
    assert earned[1] >= earned[0] - 1e-6


def test_live_state_acts_as_the_environment(problem, cases, tmp_path):
    policy = rules._set(
        problem.policy(0.5), [1.0, -0.4, 0.02, 0.01, 0.03, 0.01, 0.2, 1.5], [0.4, 1.0, 0.1, -0.1, 0.8]
    )
    write_policy(policy, tmp_path / "p")
    live = load_policy(tmp_path / "p")
    core = CachingCore(problem.rows[0.5, "test"], problem.configs[0.5], 5, seed=3)
    idle = torch.full((5, 4), float("inf"))
    uses = torch.zeros(5, 4)
    for _ in range(core.config.window):
        expected = policy.actions(core.observation())[0]
        state, seen = core.state, core.observation()
        waits = seen[:, -16:-12]
        features = core.table.outcomes.features[state.row]
        own = live.observe(features, state.resident, waits, state.host, idle, uses)
        torch.testing.assert_close(own, seen, atol=1e-6, rtol=0.0)
        step = live.decide(own)
        assert torch.stack([step.answer, step.victim], dim=-1).equal(expected)
        core.step(expected)
        chosen = torch.nn.functional.one_hot(step.answer, 4).bool()
        idle, uses = torch.where(chosen, 1.0, idle + 1.0), 0.95 * uses + chosen
    with pytest.raises(RouterError, match="features must be"):
        live.observe(features[:, :2], state.resident, waits, state.host, idle, uses)


def test_a_trace_is_drawn(problem, cases):
    found = CACHING.trace(problem, fitted("lru", problem, cases)[0], cases[0])
    row = {"method": "lru", "family": "baseline", "quality_mean": 0.8, "utility_mean": 0.7}
    summary = [
        row | {"resident_gb": 2.8, "resident_share": 0.5},
        row | {"resident_gb": 5.6, "resident_share": 1.0},
    ]
    curve, figure = CACHING.figures({"lru": found}, summary)
    assert figure.svg.count('fill="#2563ab"') == min(48, len(found["answered"]))
    assert "half" in figure.title
    assert curve.svg.count(">half<") == 2  # in both panels
    assert curve.svg.count("<circle") == 4


def test_unknown_options_are_refused():
    with pytest.raises(InputError, match="did you mean 'resident'"):
        problem_of(CACHING, "digits", {"residnet": 1})
