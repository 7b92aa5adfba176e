"""The queueing problem keeps the protocol: cases, cores, measurements, digests and figures."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from envs import QueueingCore
from experts import InputError, OutcomeTable
from router_rl.methods.fit import fit
from router_rl.methods.method import Bound, Method
from router_rl.methods.registry import find_method, method_names
from router_rl.problems.objective import Objective
from router_rl.problems.problem import ActionPolicy, Policy
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.problems.registry import find_problem
from router_rl.routing import RouterError

FEW = {"loads": (0.7,), "episodes": 4, "window": 24}
FIXED = (
    "least_wait",
    "shortest_queue",
    "power_of_two",
    "round_robin",
    "random",
    "best_single",
    "static_gate",
)


def write_trace(path, seed, shape=1.0):
    gaps = np.random.default_rng(seed).gamma(shape, size=400)
    pq.write_table(pa.table({"arrival_s": gaps.cumsum()}), path)
    return str(path)


def test_it_is_registered_with_a_case_for_each_load(table):
    assert find_problem("queueing") is QueueingProblem
    problem = QueueingProblem(table)
    assert [case.label for case in problem.cases] == ["load 0.5", "load 0.8", "load 0.95"]
    assert [dict(case.values) for case in problem.cases] == [{"load": 0.5}, {"load": 0.8}, {"load": 0.95}]
    assert problem.at(problem.cases[1]).config.load == 0.8
    with pytest.raises(InputError, match="one case is needed"):
        _ = problem.config
    names = method_names("queueing")
    assert {*QueueingProblem.always, QueueingProblem.rival} <= set(names)
    own = [find_method("queueing", name) for name in names if name != "ppo"]
    assert [method.name for method in own] == [name for name in names if name != "ppo"]
    assert all(isinstance(method, Method | Bound) and method.about for method in own)


def test_a_core_takes_its_load_its_rows_and_its_compute_weight(table):
    problem = QueueingProblem(table, Objective(compute_weight=0.3), loads=(0.5, 1.0), window=24)
    slow, busy = (problem.core("train", case, lanes=5, seed=2) for case in problem.cases)
    assert isinstance(slow, QueueingCore)
    assert (slow.lanes, slow.outcomes.queries, slow.config.compute_weight) == (5, 40, 0.3)
    assert slow.gap == pytest.approx(2.0 * busy.gap)
    assert problem.core("test", problem.cases[0], lanes=1, seed=0).outcomes.queries == 20
    pair = problem.core("train", problem.cases[0], lanes=4, seed=2, group=2).state.episodes.row
    assert torch.equal(pair[0], pair[1])
    assert not torch.equal(pair[1], pair[2])


@pytest.mark.parametrize("name", FIXED)
def test_every_rule_is_a_policy_whose_measurement_adds_up_and_repeats(table, name):
    problem = QueueingProblem(table, **FEW)
    policy = fit(name, problem, seed=3)
    assert isinstance(policy, Policy)
    measured = problem.evaluate(policy, "test")
    parts = measured.parts
    assert measured.utility.shape == (4,)
    assert measured.share.shape == (4, 2)
    np.testing.assert_allclose(measured.share.sum(axis=1), 1.0, atol=1e-6)
    utility = parts["quality"] - 0.1 * parts["compute"] - 0.5 * parts["lateness"]
    np.testing.assert_allclose(measured.utility, utility, atol=1e-5)
    assert measured.facts["p50_s"] <= measured.facts["p95_s"] <= measured.facts["p99_s"]
    np.testing.assert_array_equal(problem.evaluate(policy, "test").utility, measured.utility)
    assert problem.evaluate(policy, "validation").means() != measured.means()


def test_round_robin_takes_turns_and_a_random_expert_is_drawn_by_its_seed(table):
    problem = QueueingProblem(table, **FEW)
    turns = problem.evaluate(fit("round_robin", problem), "test")
    np.testing.assert_array_equal(turns.share, 0.5)
    draws = [problem.evaluate(fit("random", problem, seed=seed), "test") for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0].share, draws[1].share)
    assert not np.array_equal(draws[0].share, draws[2].share)


def test_all_policies_get_the_same_requests(table):
    problem = QueueingProblem(table, **FEW)
    requests = []

    class Recorder(ActionPolicy):
        def start(self, core):
            requests.append(core.state.episodes)

    for expert in (0, 1):
        problem.evaluate(
            Recorder(actions=lambda seen, expert=expert: torch.full((len(seen),), expert)), "test"
        )
    assert torch.equal(requests[0].row, requests[1].row)
    assert torch.equal(requests[0].arrival, requests[1].arrival)


def test_overspending_is_a_part_under_a_budget_only(table):
    problem = QueueingProblem(table, budget=0.3, overspend_weight=2.0, **FEW)
    parts = problem.evaluate(fit("best_single", problem), "test").parts
    assert parts["overspend"].mean() > 0.0
    assert "overspend" not in QueueingProblem(table, **FEW).evaluate(fit("random", problem), "test").parts


def test_a_changed_router_is_measured_again_and_an_equal_one_is_not(table, monkeypatch):
    problem = QueueingProblem(table, **FEW)
    runs = []
    core = QueueingProblem.core
    monkeypatch.setattr(
        QueueingProblem, "core", lambda *args, **named: runs.append(1) or core(*args, **named)
    )
    first, second = fit("least_wait", problem), fit("least_wait", problem)
    utility = problem.evaluate(first, "test").utility
    assert problem.evaluate(second, "test").utility is utility
    assert len(runs) == 1
    second.scorer.weights[0] = 5.0
    assert not np.array_equal(problem.evaluate(second, "test").utility, utility)
    assert len(runs) == 2


def test_a_policy_of_another_pool_or_split_is_refused(table):
    problem = QueueingProblem(table, **FEW)
    other = QueueingProblem(replace(table, experts=("slow", "other")), **FEW)
    with pytest.raises(RouterError, match="other"):
        other.evaluate(fit("least_wait", problem), "test")
    with pytest.raises(InputError, match="has no evaluation episodes"):
        problem.evaluate(fit("least_wait", problem), "train")


def test_the_digest_follows_data_and_options_not_paths(table, tmp_path):
    one, same = (write_trace(tmp_path / name, seed=0) for name in ("one.parquet", "same.parquet"))
    other = write_trace(tmp_path / "other.parquet", seed=1)
    changed = replace(table, quality=table.quality * 0.5)
    problems = {
        "same": QueueingProblem(table, arrivals=one),
        "trace": QueueingProblem(table, arrivals=other),
        "test trace": QueueingProblem(table, arrivals=one, test_arrivals=other),
        "table": QueueingProblem(changed, arrivals=one),
        "objective": QueueingProblem(table, Objective(compute_weight=0.2), arrivals=one),
        "option": QueueingProblem(table, arrivals=one, lateness_weight=0.6),
        "loads": QueueingProblem(table, arrivals=one, loads=(0.5,)),
        "poisson": QueueingProblem(table),
        "bursts": QueueingProblem(table, arrivals="bursts"),
    }
    digests = {name: problem.digest() for name, problem in problems.items()}
    assert len(set(digests.values())) == len(problems)
    assert QueueingProblem(table, arrivals=same).digest() == digests["same"]
    part = problems["same"].at(problems["same"].cases[0])
    assert pickle.loads(pickle.dumps(part)).digest() == digests["same"]


def test_a_policy_can_be_tested_on_other_arrivals(table):
    problem = QueueingProblem(table, loads=(0.5,), test_arrivals="bursts", window=300)
    spread = {
        split: float(
            problem.core(split, problem.case, lanes=20, seed=0).state.episodes.arrival.diff(dim=1).std()
        )
        for split in ("validation", "test")
    }
    assert spread["test"] > 1.2 * spread["validation"]


def test_a_trace_is_divided_among_the_splits(table, tmp_path):
    gaps = np.repeat([1.0, 2.0, 3.0, 4.0], 100) + np.random.default_rng(0).uniform(0.0, 0.5, 400)
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"arrival_s": gaps.cumsum()}), path)
    problem = QueueingProblem(table, arrivals=str(path), **FEW)
    counts = [
        len(problem.core(split, problem.case, lanes=1, seed=0).traffic.gaps) for split in ("train", "test")
    ]
    assert counts == [199, 99]


def test_a_table_of_prompts_gets_features_and_its_router_reads_prompts(table):
    kinds = ("short question {}", "long and difficult question about the number {}")
    prompts = np.array([kinds[row % 2].format(row) for row in range(80)], dtype=object)
    bare = replace(table, features=None, prompt=prompts)
    problem = QueueingProblem(bare, **FEW)
    assert problem.text is not None
    router = fit("least_wait", problem)
    state = torch.zeros(1, 12)
    assert router.route("short question 7", state=state).experts.shape == (1, 1)
    with pytest.raises(InputError, match="neither features, nor prompts or groups"):
        QueueingProblem(replace(bare, prompt=None), **FEW)


def test_the_figure_holds_the_queues_as_each_request_arrives(table):
    problem = QueueingProblem(table, **FEW)
    (figure,) = problem.figures(
        ActionPolicy(actions=lambda seen: torch.zeros(len(seen)).long()), problem.case
    )
    assert figure.form == "queue_timeline"
    assert figure.data["experts"] == ["slow", "fast"]
    assert figure.data["case"] == "load 0.7"
    moments = figure.data["seen"]
    assert len(moments) == 24
    assert moments[0] == {"second": 0.0, "jobs": [0.0, 0.0], "down": [False, False]}
    assert moments[1]["jobs"] == [1.0, 0.0]
    assert max(moment["jobs"][0] for moment in moments) > 2.0  # the slow expert gets all requests
    seconds = [moment["second"] for moment in moments]
    assert seconds == sorted(seconds)


def test_the_card_says_what_a_report_needs(table):
    card = QueueingProblem(table, Objective(compute_weight=0.2), **FEW).describe()
    assert (card.name, card.environment) == ("queueing", "RouterRL/Queueing-v0")
    assert card.experts == ("slow", "fast")
    assert card.options["window"] == 24
    assert card.options["compute_weight"] == 0.2
    assert card.facts["queries"] == {"train": 40, "validation": 10, "tuning": 10, "test": 20}
    assert card.facts["mean_service_s"] == pytest.approx(table.latency_s[:40].mean())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (Objective(load_weight=0.1), "objective.load_weight=0.1: queueing does not use it"),
        (Objective(budget=0.5), "objective.budget=0.5: queueing does not use it"),
        ([Objective(compute_weight=0.1), Objective(compute_weight=0.2)], "one objective for all its cases"),
    ],
)
def test_an_objective_that_it_does_not_use_is_refused(table, objective, message):
    with pytest.raises(InputError, match=message):
        QueueingProblem(table, objective)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrivals": "gone.parquet"}, "problem.arrivals='gone.parquet': no such file"),
        ({"test_arrivals": "burst"}, "problem.test_arrivals='burst': unknown; did you mean 'bursts'"),
        ({"replicas": (1, 2, 3)}, "problem.replicas=.*there are 2 experts"),
    ],
)
def test_data_that_do_not_fit_are_named_as_the_problems_option(table, changes, message):
    with pytest.raises(InputError, match=message):
        QueueingProblem(table, **changes)


def test_a_table_without_a_test_split_is_refused():
    table = OutcomeTable(
        experts=["a", "b"],
        query_id=range(4),
        features=np.zeros((4, 1)),
        quality=np.ones((4, 2)),
        cost=np.ones((4, 2)),
        split=["train"] * 2 + ["validation"] * 2,
    )
    with pytest.raises(InputError, match="has rows in: train, validation"):
        QueueingProblem(table)
