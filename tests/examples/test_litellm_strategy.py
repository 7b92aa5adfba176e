"""The LiteLLM example: our router chooses, LiteLLM's cooldowns mask, its retries ask the next best."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from router_rl.routing import load

ROOT = Path(__file__).resolve().parents[2]
SUM, WORD = "What is 3 plus 4?", "Translate haus c and baum y"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module("litellm_strategy")


def ask(example, serving, prompts):
    """The models that answered the prompts, one after the other."""

    async def work():
        try:
            return [
                (
                    await serving.acompletion(model="auto", messages=[{"role": "user", "content": prompt}])
                ).model
                for prompt in prompts
            ]
        finally:
            await example.litellm.close_litellm_async_clients()
            example.litellm.in_memory_llm_clients_cache.flush_cache()

    return asyncio.run(work())


def test_each_prompt_goes_to_its_model(example, router_folder, models, server):
    serving = example.routed_litellm(load(router_folder), str(models))
    assert ask(example, serving, [SUM, WORD, SUM]) == ["small", "large", "small"]
    assert sum(server.answered.values()) == 3


def test_a_model_that_cools_down_is_masked_within_the_request_and_after_it(
    example, router_folder, models, server
):
    serving = example.routed_litellm(load(router_folder), str(models))
    server.down.add("small")
    assert ask(example, serving, [SUM, SUM, WORD]) == ["large", "large", "large"]
    assert server.attempts("small", SUM) == 1
    assert server.attempts("large", SUM) == 2


def test_with_everybody_down_it_fails_as_litellm_does(example, router_folder, models, server):
    serving = example.routed_litellm(load(router_folder), str(models), num_retries=1)
    server.down.update(("small", "large"))
    with pytest.raises(Exception, match="503"):
        ask(example, serving, [SUM])
    assert server.attempts("small", SUM) == server.attempts("large", SUM) == 1


def test_one_expert_may_have_several_deployments(example, router_folder, models, server):
    routing = load(router_folder)
    serving = example.routed_litellm(routing, str(models))
    twins = [
        {"model_info": {"id": name, "expert": expert}}
        for name, expert in (("s1", "small"), ("s2", "small"), ("l1", "large"))
    ]
    strategy = example.RoutedStrategy(routing, serving, twins)
    messages = [{"role": "user", "content": [{"type": "text", "text": SUM}]}]
    chosen = [strategy._choose(messages, set())["model_info"]["id"] for _ in range(40)]
    assert set(chosen) == {"s1", "s2"}
    assert strategy._choose(messages, {"s1"})["model_info"]["id"] == "s2"
    assert strategy._choose(messages, {"s1", "s2"})["model_info"]["id"] == "l1"
    assert strategy._choose(messages, {"s1", "s2", "l1"})["model_info"]["expert"] == "small"


@pytest.mark.slow
def test_runs_from_the_command_line(router_folder, models, server):
    server.down.add("large")
    program = [sys.executable, "examples/litellm_strategy.py", str(router_folder), str(models), SUM, WORD]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert done.stdout.splitlines() == [f"small: small says {len(SUM)}", f"small: small says {len(WORD)}"]
