"""Rules of sessions do what they say, plans are optimal, and policy iteration does not lose to its rule."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from environment_tables import topics

from experts import OutcomeTable
from router_rl import Objective, SessionProblem, compare
from router_rl.methods.fit import fit
from router_rl.methods.method import Run
from router_rl.methods.session import session_candidates, session_iteration, session_planner
from router_rl.methods.session.session_candidates import Candidate, candidate_utilities
from router_rl.methods.session.session_iteration import (
    Forks,
    SessionIterationHyperparameters,
    ascend_network,
    fit_session,
    fork_turns,
)
from router_rl.methods.session.session_planner import measure_plan
from router_rl.methods.session.session_rules import RULES, strongest_rule, tuned_rule
from router_rl.problems.cascade import beliefs
from router_rl.problems.problem import ActionPolicy
from router_rl.routing import load
from router_rl.studies.runs import train_run

FEW = {
    "iterations": 1,
    "lanes": 16,
    "times": 3,
    "horizon": 6,
    "epochs": 2,
    "validation_lanes": 8,
    "hidden": 4,
}


@pytest.fixture(scope="module")
def problem(_few_streams):
    options = {"episodes": 8, "window": 32, "turns": 8.0, "prices": (1.0, 2.0, 3.0, 4.0)}
    return SessionProblem(topics(), Objective(compute_weight=0.1), **options)


@pytest.fixture(scope="module", autouse=True)
def _few_streams():
    """Tuning on fewer episodes and shorter fits, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_candidates, "_STREAMS", 4)
        patch.setattr(session_candidates, "_FINAL_STREAMS", 4)
        patch.setattr(beliefs, "_EXCHANGES", 1)  # of confidences, which sessions do not have
        yield


def actions_of(problem, name):
    """The actions of a rule, and the state it acted on, over some turns."""
    policy, core = tuned_rule(problem, name), problem.core("test", problem.case, lanes=16, seed=1)
    taken = []
    for _ in range(30):
        observation = core.observation()
        actions = policy.act(observation)
        taken.append((observation, core.state, actions))
        core.clear(core.step(actions).terminated)
    return policy, taken


def test_best_single_and_sticky_do_not_switch(problem):
    assert problem.evaluate(tuned_rule(problem, "best_single"), "test").means()["switched"] == 0.0
    assert problem.evaluate(tuned_rule(problem, "best_single"), "test").shares.max() == 1.0
    sticky = problem.evaluate(tuned_rule(problem, "sticky"), "test")
    assert sticky.means()["switched"] == 0.0
    assert sticky.shares.max() < 1.0


def test_the_myopic_rule_is_the_highest_predicted_utility_of_the_turn(problem):
    policy, taken = actions_of(problem, "myopic")
    for observation, state, actions in taken:
        chance = problem.chance["test"][state.row]
        cost = observation[:, 5:].reshape(16, -1)[:, 12:16]
        assert actions.equal((chance - 0.1 * cost).argmax(dim=-1))
    assert float(policy.weights.abs().sum()) == 3.0


def test_above_the_threshold_nothing_switches(problem):
    policy = Candidate(weights={"chance": 1.0, "cost": -1.0, "long stay": 1e3}, threshold=10_000.0).set(
        problem.policy(problem.case)
    )
    core, above, below = problem.core("test", problem.case, lanes=64, seed=2), 0.0, 0.0
    for _ in range(40):
        long = core.observation()[:, -4] > np.log2(10_000.0)
        step = core.step(policy.act(core.observation()))
        above += float(step.parts["switched"][long].sum())
        below += float(step.parts["switched"][~long].sum())
        core.clear(step.terminated)
    assert above == 0.0 < below


def test_a_tuned_rule_is_the_best_of_its_grid_where_it_was_tuned(problem):
    few = [Candidate(weights={"chance": 1.0, "refill": -refill}) for refill in (0.0, 0.3, 1.0, 3.0)]
    utility = candidate_utilities(problem, "train", few, streams=6, seed=5)
    alone = [candidate_utilities(problem, "train", [each], streams=6, seed=5) for each in few]
    torch.testing.assert_close(utility, torch.cat(alone))
    assert len(utility.unique()) > 1


def test_the_utility_of_a_candidate_is_the_mean_reward_of_a_turn(problem):
    for expert in (0, 3):
        (found,) = candidate_utilities(problem, "train", [Candidate(expert=expert)], streams=6, seed=5)
        core, total = problem.core("train", problem.case, lanes=6, seed=5, group=1), 0.0
        for _ in range(32):
            step = core.step(torch.full((6,), expert))
            total += float(step.reward.sum())
            core.clear(step.terminated)
        assert float(found) == pytest.approx(total / (6 * 32), abs=1e-6)


@pytest.mark.slow
def test_the_strongest_rule_has_the_highest_validation_utility(problem):
    best = problem.evaluate(strongest_rule(problem), "validation").means()["utility"]
    each = [problem.evaluate(tuned_rule(problem, name), "validation").means()["utility"] for name in RULES]
    assert best == pytest.approx(max(each))


def test_a_plan_is_the_best_of_all_sequences(problem):
    """All 3 ** 6 sequences of experts in one conversation, played in the environment."""
    table = topics()
    three = OutcomeTable(
        experts=["a", "b", "c"],
        query_id=table.query_id,
        features=table.features,
        quality=table.quality[:, :3],
        cost=table.cost[:, :3],
        group=table.group,
        split=table.split,
    )
    small = SessionProblem(
        three,
        Objective(compute_weight=0.5),
        prices=(1.0, 2.0, 4.0),
        turns=6.0,
        spread=0.0,
        gap_s=150.0,
        expiry_s=200.0,
        episodes=2,
        window=6,
    )
    sequences = torch.tensor(list(product(range(3), repeat=6)))
    core = small.core("test", small.case, lanes=len(sequences) * 2, seed=800_000, group=len(sequences))
    total = torch.zeros(len(sequences) * 2)
    for turn in range(6):
        total += core.step(sequences[:, turn].repeat(2)).reward
    best = total.view(2, -1).amax(dim=1) / 6
    plan = measure_plan(small, small.case, "test", outcomes=True)
    np.testing.assert_allclose(plan.utility, best.numpy(), atol=1e-5)
    assert len(plan.shares.nonzero()[0]) > 1


def test_merged_states_are_a_bound(problem, monkeypatch):
    rng = np.random.default_rng(0)
    worth, price = rng.random((12, 4)), rng.random((12, 4))

    def costs(turn, used):
        return price[turn] + 0.2 * np.where(used < 0, 3.0, turn - used).clip(max=3.0)

    exact, path = session_planner.plan(worth, costs)
    used, total = np.full((1, 4), -1), 0.0
    for turn, expert in enumerate(path):
        total += worth[turn, expert] - costs(turn, used)[0, expert]
        used[0, expert] = turn
    assert total == pytest.approx(exact)
    monkeypatch.setattr(session_planner, "_MOST", 3)
    assert session_planner.plan(worth, costs)[0] >= exact - 1e-12


@pytest.mark.slow
def test_the_bound_bounds_every_rule(problem):
    bound = measure_plan(problem, problem.case, "test", outcomes=True).utility
    for name in RULES:
        assert (problem.evaluate(tuned_rule(problem, name), "test").utility <= bound + 1e-6).all(), name


def test_forks_earn_what_the_environment_pays(problem):
    """A fork that stays with its expert, by hand: the policy is a rule that never switches."""
    policy = Candidate(weights={"stay": 1e3}).set(problem.policy(problem.case))
    few = SessionIterationHyperparameters(**FEW | {"horizon": 1, "outcome_share": 1.0})
    forks = fork_turns(problem, policy, few, seed=0)
    assert forks.returns.shape == (48, 4)
    cost = forks.state.reshape(48, -1)[:, 12:16]
    quality = forks.returns + 0.1 * cost  # of an answer of mean length; the price of the rest is small
    assert float((quality - quality.round()).abs().mean()) < 0.03
    longer = fork_turns(problem, policy, few.__class__(**FEW | {"horizon": 9, "outcome_share": 1.0}), seed=0)
    assert longer.state.equal(forks.state)
    assert float(longer.returns.mean()) > float(forks.returns.mean()) + 0.5


def test_the_ascent_finds_the_better_expert(problem):
    """At a known advantage, the network learns to choose the expert that has most of its prompt cached."""
    generator = torch.Generator().manual_seed(0)
    policy = problem.policy(problem.case, 8)
    state = torch.rand(400, 24, generator=generator)
    inputs = policy.inputs(torch.full((400, 4), 0.5), torch.full((400, 4), 0.5), state)
    returns = state[:, :4].clone()
    forks = Forks(inputs, state, returns)
    fast = SessionIterationHyperparameters(learning_rate=0.02, epochs=20, batch=100)
    ascend_network(policy, forks, fast, seed=0)
    chosen = policy.scores(inputs, state).argmax(dim=-1)
    assert float((chosen == returns.argmax(dim=-1)).float().mean()) > 0.85


def test_policy_iteration_is_no_worse_than_its_rule_on_validation_and_resumes(problem):
    snapshots = []
    few = SessionIterationHyperparameters(**FEW)
    policy = fit_session(problem, few, Run(seed=1, callback=snapshots.append))
    again = fit_session(problem, few, Run(seed=1))
    assert all(a.equal(b) for a, b in zip(policy.module.parameters(), again.module.parameters(), strict=True))
    assert len(snapshots) == 1
    rule = problem.evaluate(strongest_rule(problem), "validation").means()["utility"]
    assert problem.evaluate(policy, "validation").means()["utility"] >= rule - 0.02


@pytest.mark.parametrize(
    ("mean", "deviation", "guard", "replaced"),
    [(0.05, 0.01, 2.0, True), (0.05, 0.3, 2.0, False), (0.05, 0.3, 1.0, True), (-0.05, 0.01, 0.0, False)],
)
def test_a_policy_replaces_the_rule_if_it_is_better_by_the_guard(
    problem, monkeypatch, mean, deviation, guard, replaced
):
    """64 episodes, so a standard error is an eighth of the deviation."""
    gain = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat(32)
    of_rule = torch.full((64,), 0.5, dtype=torch.float64)
    seen = [of_rule, of_rule + mean + deviation * gain / gain.std(), of_rule - 1.0]

    def improve(policy, *_):
        policy.network[-1].bias.data += 1.0

    monkeypatch.setattr(session_iteration, "strongest_rule", lambda problem: problem.policy(problem.case))
    monkeypatch.setattr(session_iteration, "fork_turns", lambda *_: Forks(*torch.zeros(3, 1)))
    monkeypatch.setattr(session_iteration, "_standardise", lambda *_: None)
    monkeypatch.setattr(session_iteration, "_validate", lambda *_: seen.pop(0))
    for name in ("regress_network", "ascend_network"):
        monkeypatch.setattr(session_iteration, name, improve)
    few = SessionIterationHyperparameters(iterations=1, hidden=4, guard=guard)
    snapshots = []
    policy = fit_session(problem, few, Run(callback=snapshots.append))
    assert not seen
    assert float(policy.module.network[-1].bias.detach()) == (1.0 if replaced else 0.0)
    (snapshot,) = snapshots
    assert snapshot.validation.means()["utility"] == pytest.approx(0.5 + mean if replaced else 0.5)


def four_turns(folder: Path) -> SessionProblem:
    """Two models, each right on its own topic, which the feature tells; a switch costs 1.25 of utility.

    Conversations have 4 turns of one length, and the topic of a turn is that of the turn before with
    probability .75. With k turns left, a switch to the right model earns 1 + .5 + ... (k terms): 1 at the
    last turn, 1.5 and more before it. So it is right to switch at every turn but the last, which no weight of
    the rules can say.
    """
    topic = np.arange(240) % 2
    table = OutcomeTable(
        experts=["a", "b"],
        query_id=range(240),
        features=np.column_stack([topic, 1 - topic]),
        quality=topic[:, None] == np.arange(2),
        cost=np.ones((240, 2)),
        group=topic.astype(str),
        split=np.repeat(["train", "validation", "test"], 80),
    )
    # 64 conversations of 4 turns, 20 blocks each, of which the last one is new.
    blocks = [
        [0, *range(100 * one, 100 * one + 18), 10_000 + 4 * one + turn]
        for one in range(1, 65)
        for turn in range(4)
    ]
    columns = {
        "arrival_s": np.arange(256.0),
        "tokens_in": [10_240] * 256,
        "tokens_out": [1] * 256,
        "hash_ids": blocks,
    }
    pq.write_table(pa.table(columns), folder / "trace.parquet")
    unit, refill = (10_240 + 3 * 512) / 4, 19 * 512  # tokens
    return SessionProblem(
        table,
        Objective(compute_weight=1.25 * unit / refill),
        sessions=folder / "trace.parquet",
        cached_share=0.0,
        output_share=0.0,
        persistence=0.5,
        episodes=32,
        window=64,
    )


@pytest.mark.slow
def test_it_learns_that_a_conversation_ends(tmp_path):
    problem = four_turns(tmp_path)
    few = SessionIterationHyperparameters(
        iterations=1,
        lanes=64,
        times=12,
        horizon=4,
        outcome_share=0.0,
        learning_rate=1e-2,
        temperature=0.1,
        batch=64,
    )
    policy = fit_session(problem, few, Run(seed=0))
    learned, rule = (problem.evaluate(each, "test").means() for each in (policy, strongest_rule(problem)))
    core = problem.core("test", problem.case, lanes=256, seed=0)
    cold = torch.zeros(4)  # switches to a model without a cache
    for turn in range(4):
        actions = policy.act(core.observation())
        lost = core.state.cached.gather(1, actions.unsqueeze(-1)).squeeze(-1) == 0
        cold[turn] = (core.step(actions).parts["switched"] * lost).mean()
    assert float(cold[1:3].min()) > 0.1
    assert float(cold[3]) < 0.02
    assert learned["utility"] > rule["utility"] + 0.005


@pytest.mark.slow
def test_a_comparison_has_the_bound_and_the_rules(problem, tmp_path):
    study = compare(problem, ["myopic"], seeds=1, n_trials=1, out=tmp_path)
    earned = {row["method"]: row["utility_mean"] for row in study.summary}
    assert set(earned) == {"myopic", "best_single", "switching_bonus", "dynamic_programming"}
    assert max(earned, key=earned.__getitem__) == "dynamic_programming"
    assert study.recommendation


def test_a_run_is_trained_saved_and_read(problem, tmp_path):
    run = train_run(problem, "rollout_iteration", tmp_path, hyperparameters=FEW)
    policy = load(tmp_path / "policy") if (tmp_path / "policy").exists() else load(tmp_path / "router")
    earned = problem.evaluate(policy, "test").means()["utility"]
    assert earned == pytest.approx(run.facts["test"]["utility"], abs=1e-6)


@pytest.mark.parametrize("name", ["router_ppo", "reinforce", "ppo"])
def test_the_shared_learners_act_in_it(problem, name):
    few = {"decisions": 128, "steps": 4} | ({"batch": 64} if name == "ppo" else {"lanes": 8, "hidden": 8})
    policy = fit(name, problem, hyperparameters=few)
    assert isinstance(policy, ActionPolicy) == (name != "ppo")
    assert problem.evaluate(policy, "test").utility.shape == (8,)
