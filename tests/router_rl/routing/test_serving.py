"""Prompts are routed from many threads at once, each in less than a millisecond."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from experts import OutcomeTable
from router_rl import Objective, export, fit
from router_rl.problems.routing.problem import RoutingProblem
from router_rl.routing import Router, load_router

WORDS = np.array([a + b + c for a in "bdfgklmnprst" for b in "aeiou" for c in "lmnrst"])  # 360 of them


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Router, list[str]]:
    """Return a router with the default features, loaded from its export, and prompts of about 60 words."""
    rng = np.random.default_rng(0)
    prompts = [" ".join(rng.choice(WORDS, rng.integers(30, 90))) for _ in range(600)]
    quality = np.stack([[float(WORDS[i] in prompt.split()) for i in range(4)] for prompt in prompts])
    table = OutcomeTable(
        experts=("a", "b", "c", "d"),
        query_id=np.array([f"q{i}" for i in range(len(prompts))], dtype=object),
        features=None,
        quality=quality,
        cost=np.tile([1.0, 2.0, 3.0, 4.0], (len(prompts), 1)),
        split=np.resize(["train"] * 3 + ["validation", "test"], len(prompts)),
        prompt=np.array(prompts, dtype=object),
        group=np.resize(np.array(["x", "y"], dtype=object), len(prompts)),
    )
    folder = tmp_path_factory.mktemp("serving") / "router"
    export(fit("ridge", RoutingProblem(table, Objective(compute_weight=0.1)), seed=0), folder, rows=table)
    return load_router(folder), prompts


def test_a_prompt_takes_less_than_a_millisecond(served):
    router, prompts = served
    assert torch.get_num_threads() == 1
    mask = torch.tensor([True, True, False, True])
    for _ in range(20):  # torch plans its first calls
        router.route(prompts[0], "x", action_mask=mask)
    seconds = []
    for prompt in prompts[:200]:
        start = time.thread_time()  # of this thread: others may share the core
        router.route(prompt, "x", action_mask=mask)
        seconds.append(time.thread_time() - start)
    assert np.median(seconds) < 1e-3


def test_threads_get_what_one_gets(served):
    router, prompts = served
    masks = [torch.tensor([i % 4 != expert for expert in range(4)]) for i in range(len(prompts))]

    def route(index: int) -> tuple[list[int], list[float]]:
        routing = router.route(prompts[index], "xy"[index % 2], action_mask=masks[index])
        return routing.experts.tolist(), routing.logits.tolist()

    alone = [route(index) for index in range(len(prompts))]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(route, range(len(prompts)))) == alone
    assert all(experts[0][0] != index % 4 for index, (experts, _) in enumerate(alone))


def test_batches_get_what_one_gets(served):
    router, prompts = served
    together = router.route(prompts, ["x"] * len(prompts))
    for index in range(0, len(prompts), 97):
        alone = router.route(prompts[index], "x")
        assert alone.experts[0].equal(together.experts[index])
        torch.testing.assert_close(alone.logits[0], together.logits[index])
