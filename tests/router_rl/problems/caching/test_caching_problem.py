"""What a caching problem takes from a table, and what it measures."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from environment_tables import prompt_cascade, topics

from experts import InputError
from router_rl import Objective
from router_rl.problems.caching.problem import CachingProblem
from router_rl.problems.problem import ActionPolicy

OPTIONS = {"wait_weight": 3.0, "episodes": 6, "window": 48, "resident_shares": (0.5, 1.0)}

# Written by version 1: a fixed policy on the rows of `topics`, by resident share and split.
VERSION1 = {
    (0.5, "test"): {
        "utility": 0.5664421816666921,
        "quality": 0.9444444378217062,
        "compute": 1.0,
        "wait_s": 0.09266735861698787,
        "loaded_gb": 0.09236111057301362,
        "wait_p50": 0.0,
        "wait_p95": 0.5237666368484497,
        "wait_p99": 0.5237666368484497,
        "waited": 0.3194444444444444,
    },
    (1.0, "test"): {
        "utility": 0.8444445431232452,
        "quality": 0.9444444378217062,
        "compute": 1.0,
        "wait_s": 0.0,
        "loaded_gb": 0.0,
        "wait_p50": 0.0,
        "wait_p95": 0.0,
        "wait_p99": 0.0,
        "waited": 0.0,
    },
}


def by_topic(observation):
    """The expert of the topic answers, and its neighbour is evicted."""
    answer = observation[:, :4].argmax(dim=-1)
    return torch.stack([answer, (answer + 1) % 4], dim=-1)


@pytest.fixture(scope="module")
def problem():
    return CachingProblem(topics(), **OPTIONS)


def test_the_cases_are_sizes_of_memory_and_name_the_half(problem):
    assert [case.label for case in problem.cases] == [
        "50% of the experts' bytes resident, half",
        "100% of the experts' bytes resident",
    ]
    assert problem.cases[0].values == {"resident_share": 0.5, "resident_gb": 2.8}
    assert problem.describe().options["compute_weight"] == 0.1


@pytest.mark.parametrize(("place", "split"), [(0, "test"), (1, "test")])
def test_a_fixed_policy_earns_what_it_did_in_version_1(problem, place, split):
    case = problem.cases[place]
    measured = problem.evaluate(ActionPolicy(actions=by_topic), split, case)
    expected = VERSION1[case.values["resident_share"], split]
    assert measured.means() == pytest.approx(expected, abs=1e-6)
    assert measured.utility.shape == (6,)
    assert measured.share.shape == (6, 4)
    np.testing.assert_allclose(measured.share.sum(axis=1), 1.0, atol=1e-6)


def test_the_policy_is_told_the_core_of_its_evaluation(problem):
    cores = []

    class Recorder(ActionPolicy):
        def start(self, core):
            cores.append(core)

    problem.evaluate(Recorder(actions=by_topic), "test", problem.cases[0])
    (core,) = cores
    assert core.lanes == 6
    assert core.config.gpu_share == 0.5


def test_the_digest_follows_the_data_the_options_and_the_profile(problem, tmp_path):
    digest = problem.digest()
    assert CachingProblem(topics(), **OPTIONS).digest() == digest
    assert problem.at(problem.cases[0]).digest() == digest
    table = topics()
    cost = table.cost.copy()
    cost[0, 0] *= 2.0
    profile = tmp_path / "profile.yaml"
    others = []
    for bandwidth in (1e9, 2e9):  # one path, other content
        profile.write_text(yaml.safe_dump({"gpu_bandwidth": bandwidth}))
        others.append(CachingProblem(table, **OPTIONS, profile=profile).digest())
    others.append(CachingProblem(replace(table, cost=cost), **OPTIONS).digest())
    others.append(CachingProblem(table, Objective(compute_weight=0.2), **OPTIONS).digest())
    others.append(CachingProblem(table, **{**OPTIONS, "persistence": 0.5}).digest())
    assert len({digest, *others}) == 6


def test_the_beliefs_go_with_the_problem_into_another_process(problem):
    restored = pickle.loads(pickle.dumps(problem))
    assert restored.cache == {}
    assert restored.chance["train"].equal(problem.chance["train"])
    policy = ActionPolicy(actions=by_topic)
    case = problem.cases[0]
    found, expected = (each.evaluate(policy, "test", case).utility for each in (restored, problem))
    np.testing.assert_array_equal(found, expected)


def test_a_policys_prices_are_the_compute_weight_times_the_mean_compute():
    table = topics()
    dear = replace(table, cost=table.cost * np.array([1.0, 2.0, 4.0, 8.0], dtype=np.float32))
    problem = CachingProblem(dear, Objective(compute_weight=0.4), **OPTIONS)
    policy = problem.policy(problem.cases[0])
    assert policy.price.tolist() == pytest.approx([0.05, 0.1, 0.2, 0.4])  # a unit is the dearest expert
    assert (policy.answer == 0.0).all()
    assert (policy.keep == 0.0).all()


def test_a_table_of_prompts_gets_features():
    """Version 1 refused such a table: `has no features`."""
    problem = CachingProblem(prompt_cascade(), **OPTIONS)
    assert problem.text is not None
    assert problem.policy(problem.cases[0]).features == problem.text.size


def test_the_residency_figure_is_one_episode(problem):
    (figure,) = problem.figures(ActionPolicy(actions=by_topic), problem.cases[0])
    assert figure.form == "cache_residency"
    assert "half" in figure.title
    data = figure.data
    assert data["experts"] == ["a", "b", "c", "d"]
    assert len(data["resident"]) == len(data["answered"]) == 48
    assert data["resident"][0] == [1, 1, 0, 0]  # the first experts that fit
    assert all(sum(held) <= 2 for held in data["resident"])


def test_what_cannot_be_a_caching_problem():
    table = topics()
    with pytest.raises(InputError, match="caching has one objective for all its cases"):
        CachingProblem(table, [Objective(), Objective(compute_weight=0.2)], **OPTIONS)
    with pytest.raises(InputError, match=r"objective.window=32: caching does not use it"):
        CachingProblem(table, Objective(window=32), **OPTIONS)
    with pytest.raises(InputError, match="did you mean 'resident_shares'"):
        CachingProblem(table, resident_share=(0.5,))
    with pytest.raises(InputError, match="resident_shares"):
        CachingProblem(table, resident_shares=(0.5, 0.5))
    with pytest.raises(InputError, match=r"problem.episodes=1: is out of range; use a whole number from 2"):
        CachingProblem(table, episodes=1)
    with pytest.raises(InputError, match="does not fit in GPU memory"):
        CachingProblem(table, resident_shares=(0.1,))
