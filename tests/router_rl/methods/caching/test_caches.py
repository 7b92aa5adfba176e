"""Rules do what they say, the search does not lose to its start, and the exported policy acts alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from environment_tables import topics
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from router_rl.exports.policy_files import write_policy
from router_rl.methods.caching import candidates
from router_rl.methods.caching.belady import measure_belady
from router_rl.methods.caching.cache_rules import tuned_foresight
from router_rl.methods.caching.cache_search import SearchHyperparameters, search
from router_rl.methods.caching.candidates import Weights, utilities, with_weights
from router_rl.methods.fit import fit
from router_rl.problems.caching.cache_episodes import run_episodes
from router_rl.problems.caching.problem import CachingProblem, topic_quality
from router_rl.routing import RouterError, load
from router_rl.studies.runs import train_run


@pytest.fixture(scope="module")
def problem():
    """Four experts, each right on its own topic, which the features tell; memory for two, and for all."""
    return CachingProblem(topics(), wait_weight=3.0, episodes=6, window=48, resident_shares=(0.5, 1.0))


@pytest.fixture(scope="module")
def half(problem):
    return problem.at(problem.cases[0])


@pytest.fixture(scope="module")
def few_streams():
    """Tuning on fewer episodes, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_STREAMS", 8)
        patch.setattr(candidates, "_FINAL_STREAMS", 8)
        yield


@pytest.mark.slow
def test_with_memory_for_all_experts_all_rules_are_alike(problem, few_streams):
    whole = problem.at(problem.cases[1])
    found = {
        name: whole.evaluate(fit(name, whole), "test") for name in ("lru", "lfu", "pinned", "bonus", "index")
    }
    found["belady"] = measure_belady(whole, whole.case, "test")
    for name, measured in found.items():
        np.testing.assert_allclose(measured.utility, found["lru"].utility, atol=1e-6, err_msg=name)
        assert measured.facts["waited"] == 0.0


def test_belady_loads_least_of_those_that_answer_alike(half):
    found = {name: half.evaluate(fit(name, half), "test").means() for name in ("lru", "lfu", "pinned")}
    belady = measure_belady(half, half.case, "test").means()
    assert belady["loaded_gb"] < min(found["lru"]["loaded_gb"], found["lfu"]["loaded_gb"])
    assert belady["quality"] == pytest.approx(found["lru"]["quality"])
    assert found["pinned"]["loaded_gb"] <= 0.1


def test_a_tuned_rule_is_no_worse_than_what_it_was_tuned_among(half, few_streams):
    found = [fit(name, half).module for name in ("lru", "lfu", "index", "foresight")]
    weights = Weights(*(torch.stack([getattr(p, n) for p in found]) for n in ("answer", "keep")))
    utility = utilities(half, "validation", found[0], weights, streams=8, seed=candidates._SEED)
    assert utility[2] >= utility[:2].max() - 1e-6
    assert utility[3] >= utility[2] - 0.005  # its grid of shares is coarser


def test_the_next_requests_are_predicted_by_topic(problem):
    table = problem.rows(problem.cases[0], "train")
    topic = table.outcomes.features[:, :4].argmax(dim=1)
    for one in range(4):
        mean = table.outcomes.quality[topic == one].mean(dim=0)
        own = problem.foreseen.beliefs.prior(table.outcomes.features[topic == one]).sigmoid().mean(dim=0)
        assert own.argmax() == one
        torch.testing.assert_close(own, mean, atol=0.1, rtol=0.0)
        torch.testing.assert_close(
            topic_quality(table)[topic == one], mean.expand(int((topic == one).sum()), -1)
        )


def test_the_gain_is_over_the_best_resident_expert(half):
    later = torch.tensor([[0.9, 0.5, 0.7, 0.8]])
    chance = torch.tensor([[0.0, 0.35, 0.2, 0.0]])

    def chosen(resident, serves):
        answer = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, serves]])
        rest = [torch.zeros(1, 4)] * 4
        held = torch.tensor([resident])
        return int(
            half.policy(half.case).choose(chance, later, held, *rest, weights=(answer, torch.zeros(1, 5)))[
                0, 0
            ]
        )

    assert chosen([0.0, 1.0, 0.0, 0.0], 0.0) == 1
    assert chosen([0.0, 1.0, 0.0, 0.0], 1.0) == 0  # .9 - .5 against .35
    assert chosen([0.0, 0.0, 0.0, 1.0], 1.0) == 1  # .9 - .8 falls short
    assert chosen([1.0, 0.0, 0.0, 0.0], 9.0) == 1  # no expert is better than the resident one


def test_pinned_asks_only_those_it_holds(half):
    policy = fit("pinned", half)
    allowed = policy.module.allowed
    assert int(allowed.sum()) == 2
    episodes = run_episodes(policy, half.core("test", half.case, lanes=3, seed=0))
    assert set(torch.cat(episodes.answered).tolist()) <= set(allowed.nonzero().squeeze(1).tolist())
    shares = half.evaluate(policy, "test").shares
    assert shares[allowed.numpy()].sum() == pytest.approx(1.0)


def test_candidates_side_by_side_earn_what_they_earn_alone(half):
    policy = half.policy(half.case)
    answer = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [1.0, -0.3, 0.1, 0, 0, 0, 0.3, 1.0]])
    keep = torch.tensor([[1.0, 0, 0, 0, 0], [0.2, 1.0, 0.5, 0.1, 0.7]])
    found = utilities(half, "test", policy, Weights(answer, keep), streams=4, seed=7)
    for place in range(2):
        with_weights(policy, answer[place], keep[place])
        measured = run_episodes(policy, half.core("test", half.case, lanes=4, seed=7)).measurement
        assert float(found[place]) == pytest.approx(measured.means()["utility"], abs=1e-5)


def test_the_search_starts_from_foresight_and_keeps_the_best(half, few_streams):
    start = tuned_foresight(half)
    told = []
    hyperparameters = SearchHyperparameters(generations=4, population=24, streams=8)
    found = search(
        half, hyperparameters, seed=0, start=start, report=lambda done, best, mean: told.append((done, mean))
    )
    assert [done for done, _ in told] == [1, 2, 3, 4]
    assert [mean is not None for _, mean in told] == [False, False, False, True]
    weights = Weights(*(torch.stack([getattr(p, n) for p in (start, found)]) for n in ("answer", "keep")))
    utility = utilities(half, "validation", start, weights, streams=8, seed=candidates._SEED)
    assert utility[1] >= utility[0] - 1e-6


@pytest.mark.slow
def test_the_search_has_a_validation_curve(half, few_streams, tmp_path):
    """Every fourth generation: the best mean so far, on the validation episodes that select the result."""
    few = {"generations": 8, "population": 6, "elite": 3, "streams": 2}
    means = []

    def keep(done, best, mean):
        if mean is not None:
            means.append(mean)

    start = tuned_foresight(half)
    search(half, SearchHyperparameters(**few), seed=0, start=start, report=keep)
    rows = torch.stack(means)
    weights = Weights(rows[:, :8], rows[:, 8:])
    wanted = utilities(half, "validation", start, weights, streams=8, seed=candidates._SEED).cummax(0).values

    train_run(half, "cross_entropy", tmp_path, hyperparameters=few)
    (folder,) = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder))
    events.Reload()
    curve = [(event.step, event.value) for event in events.Scalars("validation/best_utility")]
    assert [step for step, _ in curve] == [500, 1000]  # thousandths of the fit
    assert [value for _, value in curve] == pytest.approx(wanted.tolist(), abs=1e-6)


def test_live_state_acts_as_the_environment(half, tmp_path):
    policy = with_weights(
        half.policy(half.case),
        torch.tensor([1.0, -0.4, 0.02, 0.01, 0.03, 0.01, 0.2, 1.5]),
        torch.tensor([0.4, 1.0, 0.1, -0.1, 0.8]),
    )
    write_policy(policy, tmp_path / "p")
    live = load(tmp_path / "p")
    core = half.core("test", half.case, lanes=5, seed=3)
    idle = torch.full((5, 4), float("inf"))
    uses = torch.zeros(5, 4)
    for _ in range(core.config.window):
        expected = policy.act(core.observation())
        state, observation = core.state, core.observation()
        waits = observation[:, -16:-12]
        features = core.table.outcomes.features[state.row]
        own = live.observe(features, state.resident, waits, state.host, idle, uses)
        torch.testing.assert_close(own, observation, atol=1e-6, rtol=0.0)
        step = live.decide(own)
        assert torch.stack([step.answer, step.victim], dim=-1).equal(expected)
        core.step(expected)
        answered = torch.nn.functional.one_hot(step.answer, 4).bool()
        idle, uses = torch.where(answered, 1.0, idle + 1.0), 0.95 * uses + answered
    with pytest.raises(RouterError, match="features must be"):
        live.observe(features[:, :2], state.resident, waits, state.host, idle, uses)
