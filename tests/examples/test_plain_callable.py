"""The plain example against a server whose models go down and come back."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from router_rl.routing import CircuitBreaker, load_router

ROOT = Path(__file__).resolve().parents[2]
SUM, WORD = "What is 3 plus 4?", "Translate haus c and baum y"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("plain_callable")


@pytest.fixture
def serve(example, router_folder, models):
    """Return a function that makes the example's answering function, and its circuit breaker."""
    http = httpx.Client()
    asking = example.openai_models(str(models), http)

    def make(**settings):
        router = load_router(router_folder)
        breaker = CircuitBreaker(router, **settings)
        return example.routed(router, asking, breaker), breaker

    with http:
        yield make


def test_each_prompt_goes_to_its_model(serve, server):
    answer, _ = serve()
    assert answer(SUM) == ("small", f"small says {len(SUM)}")
    assert answer(WORD) == ("large", f"large says {len(WORD)}")
    assert sum(server.answered.values()) == 2


def test_a_model_that_is_down_is_left_alone_and_comes_back(serve, server):
    clock = [0.0]
    answer, _ = serve(backoff_s=10.0, clock=lambda: clock[0])
    server.down.add("small")
    for _ in range(3):
        assert answer(SUM).expert == "large"
    assert server.attempts("small", SUM) == 1  # once; then it backed off
    assert server.attempts("large", SUM) == 3
    server.down.clear()
    clock[0] = 10.0
    assert answer(SUM).expert == "small"


@pytest.mark.parametrize("fault", ["500", "429", "cut", "garbage", "401"])
def test_whatever_fails_the_next_best_answers(serve, server, fault):
    answer, _ = serve()
    prompt = f"{SUM} <<{fault}>>"  # each model fails once
    with pytest.raises(RuntimeError, match=r"no model answered .small: .*; large: "):
        answer(prompt)
    assert answer(prompt).expert == "small"  # both back off, so the better one is asked


def test_with_all_experts_backing_off_each_is_tried_once(serve, server):
    answer, _ = serve()
    with pytest.raises(RuntimeError, match="no model answered"):
        answer(f"{SUM} <<500>>")
    server.down.add("small")
    assert answer(SUM).expert == "large"
    assert server.attempts("small", SUM) == server.attempts("large", SUM) == 1


def test_threads_share_router_and_circuit_breaker(serve, server):
    answer, _ = serve()
    server.down.add("large")
    prompts = [SUM, WORD] * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(answer, prompts))
    assert {answer.expert for answer in found} == {"small"}
    assert server.answered["small", SUM] == server.answered["small", WORD] == 20
    assert 1 <= server.attempts("large", WORD) <= 8  # those on their way before the first failure was known


@pytest.mark.slow
def test_runs_from_the_command_line(router_folder, models):
    program = [sys.executable, "examples/plain_callable.py", str(router_folder), str(models), SUM, WORD]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert done.stdout.splitlines() == [
        f"small: small says {len(SUM)}",
        f"large: large says {len(WORD)}",
    ]
