"""Further samples and verifiers are asked after what they follow, by every method and the exported policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from environment_tables import made_cascade

from experts import OutcomeTable
from experts.table.follow_ups import verified
from router_rl import Objective, compare, export
from router_rl.exports.policy_files import write_policy
from router_rl.methods.cascade.cascade_oracle import measure_oracle
from router_rl.methods.cascade.cascade_training import ExactPGHyperparameters, fit_exact_pg
from router_rl.methods.fit import fit
from router_rl.methods.method import Run
from router_rl.problems.cascade.cascade_episodes import run_episodes
from router_rl.problems.cascade.lattice import Lattice
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.routing import RouterError, load
from router_rl.routing.policies.cascade_beliefs import Beliefs
from router_rl.routing.policies.cascade_policy import CascadePolicy

FEW = ExactPGHyperparameters(steps=40, members=2, hidden=16)
WEIGHTS = (0.02, 0.1)


def followed() -> OutcomeTable:
    """The made table, whose second expert is a further sample of the first, and the third a verifier more."""
    table = made_cascade()
    kept = [0, 3, 1]
    parts = {name: getattr(table, name)[:, kept] for name in ("quality", "cost", "confidence")}
    probabilities = table.probabilities[:, kept]
    sampled = replace(table, experts=["a", "d", "a#2"], probabilities=probabilities, **parts)
    return verified(sampled, ["d"], answers=["a"], cost=0.1)


def answers_alone() -> OutcomeTable:
    """The made table with the answers and without confidences."""
    table = made_cascade()
    given = table.probabilities.argmax(axis=2)
    extra = {f"answer/{name}": pa.array(map(str, given[:, e])) for e, name in enumerate(table.experts)}
    return replace(table, confidence=None, probabilities=None, label=None, extra=pa.table(extra))


def problem_of(table: OutcomeTable, **options: object) -> CascadeProblem:
    return CascadeProblem(table, [Objective(compute_weight=weight) for weight in WEIGHTS], **options)


@pytest.fixture(scope="module")
def problem() -> CascadeProblem:
    return problem_of(followed(), agreement_beliefs=True)


@pytest.mark.parametrize(
    "name",
    [
        *("exact_pg", "thresholds", "automix", "lookahead", "cascade_routing", "adaptive_consistency"),
        *("knn", "ridge", "kernel", "beliefs", "best_single", "random"),
    ],
)
def test_every_method_asks_a_follow_up_after_what_it_follows(problem, name):
    part = problem.at(problem.cases[0])
    policy = fit_exact_pg(part, FEW, Run()) if name == "exact_pg" else fit(name, part)
    rows = part.rows("test")
    measured = part.evaluate(policy, "test")
    assert measured.facts["unanswered"] == 0.0
    episodes = run_episodes(
        part._policy(policy), rows, part.config, 0.02, torch.arange(rows.outcomes.queries)
    )
    for steps in episodes.steps.tolist():
        asked = [step for step in steps if 0 <= step < 4]
        for follow_up in {2, 3} & set(asked):
            assert 0 in asked[: asked.index(follow_up)]


def test_the_sets_that_are_trained_on_keep_the_order_of_follow_ups():
    lattice = Lattice(3, 2)
    after = torch.tensor([-1, 0, -1, 1])
    who = torch.tensor([[0, 1, 3], [1, 2, 3], [0, 2, 3]])
    ready = lattice.ready(after, who)
    for row, members in enumerate(who.tolist()):
        for place, asked in enumerate(lattice.asked.tolist()):
            known = {expert for expert, yes in zip(members, asked, strict=True) if yes}
            expected = [int(after[expert]) < 0 or int(after[expert]) in known for expert in members]
            assert ready[row, place].tolist() == expected


def test_the_oracle_pays_for_the_calls_before_a_follow_up(problem):
    case = problem.cases[1]
    rows = problem.rows("test").outcomes
    compute = rows.compute.clone()
    compute[:, 2:] += compute[:, :1]
    expected = (rows.quality - 0.1 * compute).amax(dim=1).numpy()
    np.testing.assert_allclose(measure_oracle(problem, case, "test").utility, expected, atol=1e-6)
    exact = problem.evaluate(fit("best_single", problem.at(case)), "test", case)
    assert (measure_oracle(problem, case, "test").utility >= exact.utility - 1e-6).all()


@pytest.mark.parametrize("table", [followed, answers_alone])
def test_the_exported_policy_acts_as_the_environment(table, tmp_path):
    problem = problem_of(table(), **({"agreement_beliefs": True} if table is followed else {}))
    assert problem.agreement_beliefs
    policy = fit_exact_pg(problem, FEW, Run(seed=0)).module
    write_policy(policy, tmp_path / "policy")
    live = load(tmp_path / "policy")
    rows, weight, count = torch.arange(80), 0.02, len(problem.experts)
    core = problem.core("test", None, lanes=len(rows), seed=0)
    core.begin(rows, weight)
    same = core.table.same[rows].float()
    answers = same.argmax(dim=-1)  # the first expert with the same answer
    confidence = torch.full((len(rows), count), float("nan"))
    running = torch.ones(len(rows), dtype=torch.bool)
    calls = 0
    for _ in range(4):
        observation = live.observe(
            core.table.outcomes.features[rows], confidence, answers, compute_weight=weight
        )
        assert observation[running].equal(core.observation()[running])
        expected = policy.act(core.observation())
        step = live.decide(observation)
        assert torch.where(step.ask >= 0, step.ask, step.answer + count)[running].equal(expected[running])
        asks = running & (step.ask >= 0)
        confidence[asks, step.ask[asks]] = core.table.confidence[rows[asks], step.ask[asks]]
        calls += int(asks.sum())
        running = running & ~core.step(expected).terminated
    assert not running.any()
    assert calls > len(rows)


def test_answers_alone_are_enough_to_gain_from_a_vote():
    """Three experts that are right by chance, and agree only where they are: a pair that agrees is right."""
    rng = np.random.default_rng(0)
    right = rng.random((600, 3)) < 0.6
    texts = np.where(right, "x", rng.integers(0, 10**9, right.shape).astype(str))
    table = OutcomeTable(
        experts=["a", "b", "c"],
        query_id=range(600),
        features=np.ones((600, 1)),
        quality=right,
        cost=np.tile([1.0, 1.0, 1.0], (600, 1)),
        split=np.repeat(["train", "validation", "test"], 200),
        extra=pa.table({f"answer/{name}": texts[:, e] for e, name in enumerate("abc")}),
    )
    problem = CascadeProblem(table, Objective(compute_weight=0.01), use_features=False)
    assert problem.inputs == ("answer",)
    few = ExactPGHyperparameters(steps=60, members=2, hidden=16, learning_rate=1e-2)
    for policy in (fit_exact_pg(problem, few, Run()), fit("adaptive_consistency", problem)):
        found = problem.evaluate(policy, "test").means()
        single = problem.evaluate(fit("best_single", problem), "test").means()
        assert found["utility"] > single["utility"] + 0.03
        assert found["asked"] > 1.9
    off = CascadeProblem(table, Objective(), use_features=False, agreement_beliefs=False)
    assert not off.agreement_beliefs


def test_a_follow_up_of_nothing_is_refused():
    beliefs = Beliefs(2, 3, 1, 4)
    for after in ([-1, -1], [-1, 0, 3]):
        with pytest.raises(RouterError, match="must have 3 numbers from -1 to 2"):
            CascadePolicy(["a", "b", "a#2"], 2, 2, [0.1, 1.0, 0.1], beliefs, after=after)
    spec = CascadePolicy(["a", "b", "a#2"], 2, 2, [0.1, 1.0, 0.1], beliefs, after=[-1, -1, 0]).spec()
    assert spec["after"] == [-1, -1, 0]
    assert CascadePolicy.from_spec(spec).after == (-1, -1, 0)


def test_a_comparison_has_routers_of_the_query_too(tmp_path: Path) -> None:
    """They route among first answers, on which their exports are checked."""
    problem = problem_of(followed())
    results = compare(problem, ["knn"], seeds=1, n_trials=1, out=tmp_path / "out").results
    assert {"knn", "best_single"} <= {row["method"] for row in results["rows"]}
    router = fit("knn", problem.at(problem.cases[0]))
    assert router.experts == ("a", "d")
    export(router, tmp_path / "router", rows=problem)
    with pytest.raises(RouterError, match="but the table has"):
        export(router, tmp_path / "router", rows=made_cascade())
