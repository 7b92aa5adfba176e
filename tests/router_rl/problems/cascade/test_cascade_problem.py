"""What a cascade problem takes from a table, and what it measures."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from environment_tables import made_cascade, prompt_cascade, solved_cascade

from experts import InputError
from router_rl import Objective
from router_rl.methods.cascade.cascade_oracle import measure_oracle
from router_rl.methods.fit import fit
from router_rl.problems.cascade.problem import CascadeProblem
from router_rl.problems.cascade.query_router import AskOnce
from router_rl.problems.problem import ActionPolicy
from router_rl.routing import Router, RouterError
from router_rl.routing.policies.cascade_policy import CascadeView

# Written by version 1: a fixed policy and the oracle on the test rows of `made_cascade`.
VERSION1 = {
    0.02: (0.849700002319878, 0.9961750112473965),
    0.1: (0.7985000103479252, 0.9808750085532665),
    0.4: (0.6065000004135073, 0.9234999917447567),
}
VERSION1_PARTS = {
    "quality": 0.8625,
    "compute": 0.6399999835528434,
    "asked": 2.05,
    "compute_p50": 0.30000001192092896,
    "compute_p95": 1.2999999523162842,
    "compute_p99": 1.2999999523162842,
    "unanswered": 0.0,
}


def escalate(observation):
    """Ask a, b, d in this order until one has a confidence of 0.7, and return the last answer."""
    view = CascadeView.of(observation, 4)
    asked = view.asked.sum(dim=-1)
    order = torch.tensor([0, 1, 3])
    doubtful = view.confidence.amax(dim=-1) < 0.7
    ask, answer = order[asked.clamp(max=2)], order[(asked - 1).clamp(min=0)] + 4
    return torch.where((asked == 0) | (doubtful & (asked < 3)), ask, answer)


@pytest.fixture(scope="module")
def problem():
    return CascadeProblem(made_cascade())


def test_the_defaults_are_one_case_for_each_compute_weight(problem):
    assert [case.label for case in problem.cases] == [
        f"compute weight {weight:g}" for weight in (0.02, 0.05, 0.1, 0.2, 0.4)
    ]
    assert [case.objective for case in problem.cases] == [
        Objective(compute_weight=weight) for weight in problem.weights
    ]
    card = problem.describe()
    assert card.experts == ("a", "b", "c", "d")
    assert card.options["max_experts"] == 3
    assert card.facts["queries"] == {"train": 240, "validation": 40, "tuning": 40, "test": 80}


@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_fixed_policy_and_the_oracle_earn_what_they_did_in_version_1(problem, place):
    case = problem.cases[place]
    policy, oracle = VERSION1[case.values["compute_weight"]]
    measured = problem.evaluate(ActionPolicy(actions=escalate), "test", case)
    assert measured.means() == pytest.approx({"utility": policy, **VERSION1_PARTS}, abs=1e-6)
    bound = measure_oracle(problem, case, "test")
    assert bound.means()["utility"] == pytest.approx(oracle, abs=1e-6)
    assert (bound.utility >= measured.utility - 1e-6).all()
    np.testing.assert_allclose(bound.share.sum(axis=1), 1.0)


def test_the_share_divides_a_query_among_the_experts_it_asked(problem):
    measured = problem.evaluate(ActionPolicy(actions=escalate), "test", problem.cases[0])
    asked = measured.parts["asked"]
    assert set(asked) == {1.0, 2.0, 3.0}
    np.testing.assert_allclose(measured.share[:, 0], 1.0 / asked, atol=1e-6)  # a is always asked
    assert (measured.share[:, 2] == 0.0).all()  # c never is
    np.testing.assert_allclose(measured.share.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "without", "believed"),
    [
        (None, (), False),  # answers have confidences of their own
        (False, (), False),
        (True, (), True),
        (True, ("probabilities", "label"), False),  # no answers are known
    ],
)
def test_agreement_moves_beliefs_where_answers_are_known_and_it_is_asked_for(chosen, without, believed):
    table = replace(made_cascade(), **dict.fromkeys(without))
    problem = CascadeProblem(table, Objective(), agreement_beliefs=chosen)
    assert problem.agreement_beliefs is believed
    assert ("answer" in problem.inputs) is believed


def test_an_episode_without_an_answer_earns_nothing_and_is_counted(problem):
    silent = ActionPolicy(actions=lambda observation: torch.full((len(observation),), 4))
    measured = problem.evaluate(silent, "validation", problem.cases[0])
    # The answer of an expert that was not asked is invalid.
    assert (measured.utility == 0.0).all()
    assert (measured.share == 0.0).all()


def test_a_case_has_the_core_of_its_compute_weight(problem):
    def drawn(part, case):
        core = part.core("train", case, lanes=64, seed=0)
        return {round(float(weight), 4) for weight in core.observation()[:, -1]}

    assert drawn(problem, problem.cases[1]) == {0.05}
    assert drawn(problem, None) == {0.02, 0.05, 0.1, 0.2, 0.4}
    assert drawn(problem.at(problem.cases[3]), None) == {0.2}
    one, two = (problem.core("train", None, lanes=4, seed=seed) for seed in (7, 8))
    assert one.observation()[1:].equal(two.observation()[:-1])  # lane i draws by the seed + i


def test_the_digest_follows_the_data_and_the_options(problem):
    digest = problem.digest()
    assert CascadeProblem(made_cascade()).digest() == digest
    assert problem.at(problem.cases[0]).digest() == digest
    table = made_cascade()
    confidence = table.confidence.copy()
    confidence[7, 2] = 0.5
    cost = table.cost.copy()
    cost[0, 0] *= 2.0
    others = [
        CascadeProblem(replace(table, confidence=confidence)),
        CascadeProblem(replace(table, cost=cost)),
        CascadeProblem(table, max_experts=2),
        CascadeProblem(table, use_features=False),
    ]
    assert len({digest, *(other.digest() for other in others)}) == 5


def test_beliefs_are_fitted_once_for_a_seed_and_left_out_of_a_pickle(problem):
    case = problem.cases[0]
    data = problem.at(case).data(0)
    assert problem.data(0) is data
    assert problem.data(1) is not data
    assert problem.data(1).table is data.table  # the rows are those of seed 0
    restored = pickle.loads(pickle.dumps(problem))
    assert restored.cache == {}
    assert restored.digest() == problem.digest()
    policy = ActionPolicy(actions=escalate)
    found, expected = (each.evaluate(policy, "test", case).utility for each in (restored, problem))
    np.testing.assert_array_equal(found, expected)


def test_a_table_of_prompts_gets_its_features_as_routing_makes_them():
    """Version 1 refused such a table: `has no features`."""
    problem = CascadeProblem(prompt_cascade(), Objective(compute_weight=0.4))
    assert problem.text is not None
    assert problem.table.features.shape[1] == problem.text.size
    gate = fit("softmax_gate", problem)
    assert isinstance(gate, Router)
    assert gate.text is problem.text
    single = problem.evaluate(fit("best_single", problem), "test").means()["utility"]
    assert problem.evaluate(gate, "test").means()["utility"] > single  # a word names the easy queries


def test_without_features_the_query_is_hidden():
    problem = CascadeProblem(prompt_cascade(), Objective(), use_features=False)
    assert (problem.table.features == 0.0).all()
    assert problem.text is None
    assert "features: none" in problem.describe().notes[-1]


def test_a_router_asks_its_expert_and_returns_that_answer(problem):
    part = problem.at(problem.cases[2])
    router = fit("best_single", part)
    measured = part.evaluate(router, "test")
    assert (measured.parts["asked"] == 1.0).all()
    expert = int(measured.shares.argmax())
    test = problem.table.part("test")
    expected = test.quality[:, expert] - 0.1 * test.cost[:, expert] / problem.scale
    np.testing.assert_allclose(measured.utility, expected, atol=1e-6)
    with pytest.raises(RouterError, match="routes between a, b, c, d but the table has cheap, dear"):
        CascadeProblem(solved_cascade(), Objective()).evaluate(router, "test")


def test_a_stochastic_router_is_drawn_by_the_seed_and_draws_once_a_query(problem):
    part = problem.at(problem.cases[0])
    router = fit("random", part)
    before = torch.get_rng_state()
    one, again, other = (part.evaluate(router, "test", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    np.testing.assert_array_equal(one.utility, again.utility)
    assert (one.utility != other.utility).any()
    assert (one.parts["asked"] == 1.0).all()
    assert one.facts["unanswered"] == 0.0
    core = part.core("test", None, lanes=80, seed=0)
    policy = AskOnce(router=router)
    first = policy.act(core.begin(torch.arange(80), 0.02))
    core.step(first)
    assert policy.act(core.observation()).equal(first + 4)


def test_the_tree_is_data_of_the_paths_taken(problem):
    (figure,) = problem.figures(ActionPolicy(actions=escalate), problem.cases[2])
    assert figure.form == "cascade_tree"
    paths = {tuple(path["asked"]): path for path in figure.data["paths"]}
    assert set(paths) == {("a",), ("a", "b"), ("a", "b", "d")}
    assert sum(path["share"] for path in paths.values()) == pytest.approx(1.0)
    quality = sum(path["share"] * path["quality"] for path in paths.values())
    assert quality == pytest.approx(VERSION1_PARTS["quality"])
    assert problem.figures(fit("best_single", problem.at(problem.cases[0])), problem.cases[0]) == ()


def test_what_cannot_be_a_cascade():
    table = made_cascade()
    with pytest.raises(InputError, match="add confidence/<expert> columns"):
        CascadeProblem(replace(table, confidence=None, probabilities=None, label=None))
    with pytest.raises(InputError, match=r"objective.load_weight=0.1: cascade does not use it"):
        CascadeProblem(table, Objective(load_weight=0.1))
    with pytest.raises(InputError, match=r"objective.budget=0.3: cascade does not use it"):
        CascadeProblem(table, Objective(budget=0.3))
    with pytest.raises(InputError, match="one is given twice"):
        CascadeProblem(table, [Objective(), Objective()])
    with pytest.raises(InputError, match=r"problem.max_experts=0"):
        CascadeProblem(table, max_experts=0)
    with pytest.raises(InputError, match="did you mean 'max_experts'"):
        CascadeProblem(table, max_expert=2)
    with pytest.raises(InputError, match="has 0 validation rows; half of them"):
        CascadeProblem(table.take(table.split != "validation"))
