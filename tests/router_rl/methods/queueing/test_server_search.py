"""The scores of tuned rules for model servers, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from envs.traces import Arrivals
from experts import OutcomeTable
from experts.llm.server_options import ContinuousOptions
from router_rl.methods.method import NoHyperparameters, Run
from router_rl.methods.queueing import server_search
from router_rl.methods.queueing.weight_search import IndexHyperparameters
from router_rl.methods.registry import find_method
from router_rl.problems.queueing.problem import QueueingProblem
from router_rl.routing import ServerConstants, ServerScorer


@pytest.fixture(scope="module")
def problem(make_table: Callable[..., OutcomeTable]) -> QueueingProblem:
    """Three engines with continuous batching."""
    tokens = np.tile([[300.0, 50.0], [100.0, 20.0]], (50, 1))
    arrivals = Arrivals(name="made", arrival_s=np.arange(100.0), tokens=tokens)
    table = make_table()
    return QueueingProblem(
        replace(table, tokens_out=np.ones((len(table), 3))),
        servers="continuous",
        trace=arrivals,
        loads=0.9,
        window=48,
        episodes=2,
        continuous=ContinuousOptions(kv_tokens=4_000, max_seqs=4, step_s=(0.01, 0.015, 0.02)),
        lateness_weight=0.5,
        miss_weight=0.25,
    )


@pytest.fixture(scope="module")
def scorer() -> ServerScorer:
    """Three servers whose mean request takes 3 seconds on average."""
    three = (1.0, 1.0, 1.0)
    return ServerScorer(
        1 + 29,
        3,
        ServerConstants(
            service=(2.0, 3.0, 4.0),
            drain=three,
            seats=three,
            first=(0.2, 0.4, 0.0),
            prompt=three,
            prompt_s=three,
            token_s=(0.01, 0.02, 0.04),
            full_token_s=three,
            refill_s=(0.0, 0.0, 0.0),
            need=(0.0, 0.0, 0.0),
            gap=1.0,
            repair=1.0,
        ),
    )


def scores_of(
    method: str, problem: QueueingProblem, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[..., list[Tensor]], tuple[float, ...]]:
    """Return the scores of a method and the first guess of their weights."""
    found: list[Any] = []
    monkeypatch.setattr(server_search, "tuned_scores", lambda *rest: found.extend(rest[3:]))
    find_method("queueing", method).fit(problem, IndexHyperparameters(), Run())
    return found[0], found[1]


def row(first_deadline: float = 0.5) -> Tensor:
    """One feature, three queues, then three servers: a request of value 2 and a deadline of 3 seconds."""
    queues = [*(5.0, 1.0, 3.0), *(2.0, 0.0, 4.0), *(0.0, 1.0, 0.0)]
    shared = [3.0, 2.0, 1.0, 1.0, 0.0, 0.0]
    loads = [*(0.5, 1.2, 0.2), *(0.0, 0.0, 2_097_152.0)]
    recent = [*(0.1, 0.2, 0.3), *(0.02, 0.01, 0.04)]
    return torch.tensor([[0.0, *queues, *shared, *loads, *recent, 200.0, first_deadline]])


@pytest.mark.parametrize("first_deadline", [0.5, 0.0])
def test_the_predicted_lateness_is_relative_to_both_deadlines(
    first_deadline: float, problem: QueueingProblem, scorer: ServerScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 0.25, 1 and 2 seconds to the first token, and 0.1, 0.05 and 0.01 per further one."""
    first, further = torch.tensor([[0.25, 1.0, 2.0]]), torch.tensor([[0.1, 0.05, 0.01]])

    class Predictor:
        def __init__(self, *_: Any) -> None: ...

        def predict(self, parts: Any) -> tuple[Tensor, Tensor]:
            return first, further

    monkeypatch.setattr(server_search, "LatencyPredictor", Predictor)
    scores, guess = scores_of("latency_tuned", problem, monkeypatch)
    assert guess == (0.75, 0.75, 0.1, 0.1)
    found = scores(scorer.server_parts(row(first_deadline)), scorer)
    answers = [each.answer for each in problem.units.servers]
    whole = [0.25 + 0.1 * answers[0], 1.0 + 0.05 * answers[1], 2.0 + 0.01 * answers[2]]
    assert whole[0] > 3.0 > whole[1]
    late = [-2.0 * max(0.0, each - 3.0) / 3.0 for each in whole]
    early = [0.0, -2.0 * 0.5 / 0.5, -2.0 * 1.5 / 0.5] if first_deadline else [0.0, 0.0, 0.0]
    expected = [late, early, [-each / 3.0 for each in whole], [-0.25 / 3.0, -1.0 / 3.0, -2.0 / 3.0]]
    torch.testing.assert_close(torch.cat(found), torch.tensor(expected))


def test_the_scores_of_llmd_by_hand(
    problem: QueueingProblem, scorer: ServerScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, _ = scores_of("llmd_tuned", problem, monkeypatch)
    found = scores(scorer.server_parts(row()), scorer)
    waiting, running = [0.0, 1.0, 0.5], [0.5, 1.0, 0.0]
    expected = [waiting, running, [0.5, -0.2, 0.8], [1.0, 1.0, 0.5], [0.0, -1.0, 0.0]]
    torch.testing.assert_close(torch.cat(found), torch.tensor(expected))


def test_the_scores_of_litellm_by_hand(
    problem: QueueingProblem, scorer: ServerScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, _ = scores_of("litellm_tuned", problem, monkeypatch)
    found = scores(scorer.server_parts(row()), scorer)
    expected = [
        [-0.7, -0.1, -0.7],
        [-0.5, -0.5, -0.3e6],
        [-2.0, -0.5, -1.0],
        [-0.5, -1.2, -0.2],
        [0.0, -1.0, 0.0],
    ]
    torch.testing.assert_close(torch.cat(found), torch.tensor(expected))


def test_the_predicted_latency_counts_the_first_token_four_times(
    problem: QueueingProblem, scorer: ServerScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative to the others, the first token is 1, 0.5 and 0, further ones 0, 0.4 and 1."""

    class Predictor:
        def __init__(self, *_: Any) -> None:
            self.scorer = scorer

        def predict(self, parts: Any) -> tuple[Tensor, Tensor]:
            return torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, further, 1.0]])

    monkeypatch.setattr(server_search, "LatencyPredictor", Predictor)
    policy = find_method("queueing", "predicted_latency").fit(problem, NoHyperparameters(), Run())
    further = 2.2
    assert policy.actions(row()).tolist() == [0]  # 0.8, 0.48 and 0.2
    further = 1.0
    assert policy.actions(row()).tolist() == [0]  # 0.8, 0.6 and 0.2
