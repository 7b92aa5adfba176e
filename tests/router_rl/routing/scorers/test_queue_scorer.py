"""The index by hand, what is priced, and a router that serves live as the environment's policy plays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import check_router
from router_rl.exports import export
from router_rl.methods.queueing.index_router import index_router
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.routing import (
    Hard,
    LiveQueues,
    QueueConstants,
    QueueScorer,
    Router,
    RouterError,
    load,
    queue_state_inputs,
)
from router_rl.routing.scorers.queue_scorer import PRICES, TERMS


def table():
    rng = np.random.default_rng(3)
    rows = 60
    return OutcomeTable(
        experts=["a", "b", "c"],
        query_id=range(rows),
        features=rng.normal(size=(rows, 4)),
        quality=rng.random((rows, 3)),
        cost=rng.random((rows, 3)) + 0.1,
        latency_s=rng.exponential(1.0, (rows, 3)) + 0.01,
        split=["train"] * 30 + ["validation"] * 15 + ["test"] * 15,
    )


def one_load(**options):
    return QueueingProblem(table(), **{"loads": (0.8,), **options})


def priced_router(problem):
    router = index_router(problem)
    generator = torch.Generator().manual_seed(0)
    router.scorer.weights.copy_(torch.tensor([1.0, 0.1, 0.5, 0.1, 0.02, 0.3]))
    router.scorer.prices.copy_(0.02 * torch.randn(PRICES, generator=generator))
    return router


def one_queue(**changes):
    queue = QueueConstants(service=(1.0,), batch_service=(1.0,), replicas=(1,), gap=1.0, repair=0.0)
    return replace(queue, **changes)


def test_terms_by_hand():
    constants = QueueConstants(
        service=(1.0, 3.0), batch_service=(1.0, 3.0), replicas=(1, 2), gap=1.0, repair=10.0
    )
    scorer = QueueScorer(1 + 12, 2, constants)
    with torch.no_grad():
        scorer.estimate.weight.zero_()
        scorer.estimate.bias.copy_(torch.tensor([0.5, 0.8, 0.1, 1.0, 1.5, 2.0]))
    # Two wait at the first expert; one of two replicas of the second is taken and it is down.
    x = torch.tensor([[9.0, 2.0, 0.0, 1.0, 1.0, 0.0, 1.0, 4.0, 2.0, 1.0, 1.0, 0.0, 0.0]])
    quality, compute, lateness, wait, jobs, pace = scorer.terms(x)[0].T.tolist()
    assert quality == pytest.approx([1.0, 1.6])
    assert compute == pytest.approx([-0.1, -1.0])
    assert wait == pytest.approx([-3.0 / 2.0, -10.0 / 2.0])  # in mean service times
    assert lateness == pytest.approx([-2.0 * 0.5 / 4.0, -2.0 * 8.0 / 4.0])
    assert jobs == pytest.approx([-3.0, -0.5])
    assert pace == [0.0, 0.0]
    assert len(TERMS) == 6


@pytest.mark.parametrize(("left", "short"), [(0.5, 0.0), (1.0, -1.0), (0.25, 0.5), (-1.0, 3.0), (-9.0, 4.0)])
def test_the_pace_prices_compute_by_what_is_left_of_the_budget(left, short):
    scorer = QueueScorer(1 + 9, 1, one_queue(budget=0.5))
    with torch.no_grad():
        scorer.estimate.weight.zero_()
        scorer.estimate.bias.copy_(torch.tensor([0.5, 0.2, 1.0]))
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0, 9.0, 1.0, 1.0, 1.0, left, 0.5]])
    assert scorer.terms(x)[0, 0, 5].item() == pytest.approx(-0.2 * short)


def test_a_batch_is_waited_for_once():
    scorer = QueueScorer(1 + 9, 1, one_queue(batch_service=(2.0,), batch=4, batch_slope=0.1))
    rows = [[0.0, waiting, 1.0, 0.0, 9.0, 1.0, 1.0, 1.0, 0.0, 0.0] for waiting in (0.0, 3.0, 4.0, 8.0)]
    assert scorer.terms(torch.tensor(rows))[:, 0, 3].tolist() == [-2.0, -2.0, -4.0, -6.0]


def test_scores_are_the_index_and_the_priced_products():
    problem = one_load(batch=3, mean_up=5.0, budget=0.5)
    scorer = priced_router(problem).scorer
    core = problem.core("train", problem.case, lanes=40, seed=0)
    for _ in range(30):
        core.step(torch.randint(3, (40,)))
    seen = core.observation()
    index, priced = scorer.priced(seen)
    assert priced.shape == (40, 3, PRICES)
    torch.testing.assert_close(scorer(seen), index + priced @ scorer.prices, atol=1e-5, rtol=1e-5)


def test_a_queue_router_passes_the_check_and_exports():
    problem = one_load(batch=2)
    features = torch.from_numpy(problem.table.features)
    check_router(priced_router(problem), features)
    check_router(index_router(problem), features)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "pt2"])
def test_both_formats_hold_it(tmp_path, format):
    assert export(priced_router(one_load()), tmp_path / "router", format=format).passed


@pytest.mark.parametrize("settings", [{}, {"batch": 2, "mean_up": 5.0, "replicas": 2}, {"budget": 0.3}])
def test_the_exported_router_serves_live_as_the_greedy_policy_plays(tmp_path, settings):
    problem = one_load(loads=(1.2,), window=80, deadlines=(2.0, 5.0), values=(2.0, 1.0), **settings)
    router = priced_router(problem)
    export(router, tmp_path / "router")
    queues = LiveQueues(load(tmp_path / "router"), budget=problem.options.budget, requests=80)
    core = problem.core("test", problem.case, lanes=1, seed=5)
    chosen = set()
    for _ in range(80):
        seen = core.observation()
        greedy = router(seen[:, :4], seen[:, 4:])
        waiting, taken, down = seen[0, 4:13].reshape(3, 3).tolist()
        deadline = float(core.state.episodes.deadline[0, core.state.step])
        value = float(core.state.episodes.value[0, core.state.step])
        found = queues.route(
            seen[0, :4],
            float(core.now),
            waiting=waiting,
            taken=taken,
            down=[bool(one) for one in down],
            deadline_s=deadline,
            value=value,
        )
        assert found.experts.equal(greedy.experts)
        torch.testing.assert_close(found.logits, greedy.logits, atol=1e-5, rtol=1e-5)
        chosen.add(int(found.experts))
        queues.used(float(core.step(found.experts[:, 0]).parts["compute"]))
    assert len(chosen) > 1


def test_the_state_is_the_environments_to_the_bit():
    problem = one_load(window=60, budget=0.3, loads=(1.2,))
    queues = LiveQueues(index_router(problem), budget=0.3, requests=60)
    core = problem.core("test", problem.case, lanes=1, seed=5)
    for step in range(60):
        seen = core.observation()[:, 4:]
        waiting, taken, down = seen[0, :9].reshape(3, 3).tolist()
        told = queues.state(
            float(core.now), waiting=waiting, taken=taken, down=down, deadline_s=float(seen[0, 9])
        )
        torch.testing.assert_close(told, seen, atol=1e-6, rtol=1e-6)
        queues.used(float(core.step(torch.tensor([step % 3])).parts["compute"]))


def test_mistakes_are_named():
    router = index_router(one_load())
    queues = LiveQueues(router)
    with pytest.raises(RouterError, match="waiting has 2 numbers; give one for each of a, b, c"):
        queues.route(torch.zeros(4), 0.0, waiting=[0, 0], taken=[0, 0, 0], deadline_s=1.0)
    with pytest.raises(RouterError, match="use 1 or more"):
        LiveQueues(router, budget=0.2)
    from router_rl.routing import ConstantScorer

    with pytest.raises(RouterError, match="was not trained on queues"):
        LiveQueues(Router(ConstantScorer(4, 2), Hard(), ["a", "b"]))
    assert sum(part.size for part in queue_state_inputs(["a", "b"])) == 12
