"""LiteLLM's router with the plug-in: our router decides, and the log is that of `serve`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import litellm
import numpy as np
import pytest
import yaml
from fault_server import FaultServer

import train_router
from experts import DecisionLog, InputError
from router_rl.serving.deployments import rollback
from router_rl.serving.litellm_plugin import LiteLLMPlugin
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.serve_options import ServeOptions

pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")
PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"


@pytest.fixture
def make_plugin(router: Path, models: Path, tmp_path: Path) -> Iterator[Callable[..., LiteLLMPlugin]]:
    """Return a function that makes a plug-in and registers it."""
    made: list[LiteLLMPlugin] = []

    def make(**changes: Any) -> LiteLLMPlugin:
        options = ServeOptions(**{"log": f"sqlite:///{tmp_path}/log.db", "poll_s": 0.02, **changes})
        made.append(LiteLLMPlugin(router, models, options))
        litellm.callbacks = [made[-1]]
        return made[-1]

    manager = litellm.logging_callback_manager  # it keeps one logger of a class, also in other lists
    manager._reset_all_callbacks()
    yield make
    manager._reset_all_callbacks()
    for plugin in made:
        plugin.close()


def serving(models: Path) -> litellm.Router:
    """Return LiteLLM's router in front of the models, all in the group `auto`."""
    endpoints = yaml.safe_load(models.read_text())["models"]
    deployments = [
        {
            "model_name": "auto",
            "litellm_params": {"model": each["model"], "api_base": each["api_base"], "api_key": "none"},
            "model_info": {"id": each["name"]},
        }
        for each in endpoints
    ]
    return litellm.Router(model_list=deployments, num_retries=2, allowed_fails=0, cooldown_time=30)


def asked(plugin: LiteLLMPlugin, models: Path, prompts: list[str], **fields: Any) -> list[str]:
    """Ask, wait until every end is logged, and return the models that answered."""

    async def work() -> list[str]:
        router, answered = serving(models), []
        try:
            for prompt in prompts:
                messages: Any = [{"role": "user", "content": prompt}]
                answer: Any = await router.acompletion(model="auto", messages=messages, **fields)
                if fields.get("stream"):
                    answer = [chunk async for chunk in answer][-1]
                answered.append(answer.model)
            deadline = time.monotonic() + 20
            while plugin.writer.waiting or any(
                row["status"] == "started" for row in plugin.store.decisions()
            ):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            return answered
        finally:
            await litellm.close_litellm_async_clients()
            litellm.in_memory_llm_clients_cache.flush_cache()

    return asyncio.run(work())


def test_each_prompt_goes_to_its_model_and_is_logged(
    make_plugin: Callable[..., LiteLLMPlugin], models: Path, router: Path
) -> None:
    plugin = make_plugin()
    assert asked(plugin, models, [PLUS, TIMES]) == ["small", "large"]
    plus, times = plugin.store.decisions()
    assert (plus["expert"], times["expert"]) == ("small", "large")
    loaded = LoadedRouter.of(router)
    for row in (plus, times):
        assert (row["status"], row["requested"], row["propensity"]) == ("ok", "auto", 1.0)
        assert (row["router"], row["pipeline"]) == (loaded.digest, loaded.pipeline)
        assert row["latency_s"] > 0
        assert row["prompt"] is None
    assert plus["propensities"] == {"small": 1.0, "large": 0.0}
    assert plus["cost_usd"] == pytest.approx((plus["tokens_in"] * 0.1 + plus["tokens_out"] * 0.4) / 1e6)
    features = loaded.rank(PLUS, None).features
    assert np.frombuffer(plus["features"], dtype="<f4").tolist() == features.tolist()


def test_a_stream_is_logged_at_its_end(make_plugin: Callable[..., LiteLLMPlugin], models: Path) -> None:
    plugin = make_plugin()
    asked(plugin, models, [TIMES], stream=True)
    (row,) = plugin.store.decisions()
    assert (row["expert"], row["status"], row["streamed"], row["tokens_out"]) == ("large", "ok", True, 5)
    assert 0 <= row["first_token_s"] <= row["latency_s"]


def test_a_retry_goes_to_the_next_best_and_both_attempts_are_logged(
    make_plugin: Callable[..., LiteLLMPlugin], models: Path, backend: FaultServer
) -> None:
    plugin = make_plugin()
    backend.down = {"small"}
    assert asked(plugin, models, [PLUS]) == ["large"]
    first, second = plugin.store.decisions()
    assert (first["expert"], first["status"]) == ("small", "failed")
    assert "503" in first["error"]
    assert (second["expert"], second["status"], second["previous"]) == ("large", "ok", first["id"])
    assert second["propensities"] == {"small": 0.0, "large": 1.0}  # small cools down


def test_what_is_not_for_the_router_is_left_to_litellm(
    make_plugin: Callable[..., LiteLLMPlugin], models: Path
) -> None:
    plugin = make_plugin()
    deployments: Any = [{"model_info": {"id": "small"}}, {"model_info": {"id": "large"}}]
    messages = [{"role": "user", "content": PLUS}]

    def left(model: str, messages: Any) -> Any:
        return asyncio.run(plugin.async_filter_deployments(model, deployments, messages, {}))

    assert left("another group", messages) == deployments
    assert left("auto", [{"role": "system", "content": "x"}]) == deployments
    assert left("auto", None) == deployments
    assert list(plugin.store.decisions()) == []
    assert left("auto", messages) == deployments[:1]


def test_a_router_of_queues_is_refused(
    router: Path, queue_router: Path, models: Path, tmp_path: Path
) -> None:
    options = ServeOptions(log=f"sqlite:///{tmp_path}/log.db")
    with pytest.raises(InputError, match="reads queues, but requests in flight are not counted"):
        LiteLLMPlugin(queue_router, models, options)
    assert not (tmp_path / "log.db").exists()
    plugin = LiteLLMPlugin(router, models, options)
    try:
        with pytest.raises(InputError, match="reads queues, but requests in flight are not counted"):
            plugin.decider.replace(Live(LoadedRouter.of(queue_router)))  # promoted
    finally:
        plugin.close()


def test_it_goes_on_learning_from_the_outcomes(
    make_plugin: Callable[..., LiteLLMPlugin], models: Path, router: Path
) -> None:
    online = {"online": "linucb", "online_scale": 0.0, "online_penalty": 1.0, "explore": 0.5}
    plugin, digest = make_plugin(**online), LoadedRouter.of(router).digest
    plugin.decider.reseed(0)
    assert plugin.decider.decide(PLUS).propensities["small"] == pytest.approx(0.75)
    asked(plugin, models, [PLUS] * 12)
    rows = list(plugin.store.decisions())
    assert {row["router"] for row in rows} == {f"{digest}+linucb"}
    assert {row["expert"] for row in rows} == {"small", "large"}
    for row in rows:
        assert plugin.store.attach(row["id"], float(row["expert"] == "large"))
    deadline = time.monotonic() + 20
    while plugin.learner is None or plugin.learner.decisions() < len(rows):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert plugin.decider.decide(PLUS).propensities["large"] == pytest.approx(0.75)
    plugin.close()
    again = make_plugin(**online)  # a restart, with the same log
    assert again.learner is not None
    assert again.learner.decisions() == len(rows)
    assert again.decider.decide(PLUS).propensities["large"] == pytest.approx(0.75)


def test_the_log_is_exported_and_the_router_promoted(
    make_plugin: Callable[..., LiteLLMPlugin], models: Path, router: Path, other_router: Path, tmp_path: Path
) -> None:
    plugin = make_plugin(explore=0.5, shadow=other_router)
    plugin.decider.reseed(0)
    asked(plugin, models, [PLUS, TIMES] * 6)
    rows = list(plugin.store.decisions())
    assert {row["shadow_expert"] for row in rows} == {"small", "large"}
    assert {row["propensity"] for row in rows} == {0.75, 0.25}
    for row in rows:
        assert plugin.store.attach(row["id"], float(row["expert"] == "small"))
    url, out = f"sqlite:///{tmp_path}/log.db", tmp_path / "log.parquet"
    assert train_router.main(["log", "export", "--log", url, "--out", str(out)]) == 0
    log = DecisionLog.read(out, ["small", "large"])
    assert sorted(log.propensity.round(6).tolist()) == sorted(row["propensity"] for row in rows)
    assert train_router.main(["promote", str(other_router), "--log", url]) == 0
    _until(plugin, LoadedRouter.of(other_router).digest)
    asked(plugin, models, [PLUS])
    assert [row["router"] for row in plugin.store.decisions()][-1] == LoadedRouter.of(other_router).digest
    rollback(plugin.store)
    _until(plugin, LoadedRouter.of(router).digest)


def _until(plugin: LiteLLMPlugin, digest: str) -> None:
    deadline = time.monotonic() + 20
    while plugin.decider.live.router.digest != digest:
        assert time.monotonic() < deadline
        time.sleep(0.01)
