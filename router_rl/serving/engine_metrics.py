"""Load of inference engines from their Prometheus metrics, read several times a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from experts import InputError
from experts.io.progress import say

__all__ = ["EngineLoad", "engine_load", "watch_engines"]

_PERIOD_S = 0.1
_TIMEOUT_S = 1.0

# By engine: requests that run, requests that wait, used share of the KV cache.
_NAMES = (
    ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:gpu_cache_usage_perc"),  # before 0.10
    ("sglang:num_running_reqs", "sglang:num_queue_reqs", "sglang:token_usage"),
)
_WHOLE = {"tp_rank": "0", "priority": ""}  # SGLang repeats an engine's load for its other ranks and parts
_ALL = tuple({name for names in _NAMES for name in names})


class EngineLoad(NamedTuple):
    """Load of an engine.

    Attributes:
        running: requests in prefill or decoding.
        waiting: requests that wait for a seat or for room in the cache.
        used: used share of the KV cache, 0 to 1.
    """

    running: float
    waiting: float
    used: float


def engine_load(metrics: str) -> EngineLoad:
    """Read an engine's load from its metrics.

    Several engines behind one address, such as vLLM's data-parallel ones, are read as one: the sum of their
    requests, and the mean of their caches.

    Args:
        metrics: what vLLM or SGLang return at `/metrics`.

    Raises:
        ValueError: a line cannot be read, or the text has not the metrics of an engine.
    """
    # A server has hundreds of lines, which take milliseconds to parse.
    lines = [line for line in metrics.splitlines() if line.startswith(_ALL)]
    values: dict[str, list[float]] = {}
    for family in text_string_to_metric_families("\n".join(lines)):
        for sample in family.samples:
            if all(sample.labels.get(name, value) == value for name, value in _WHOLE.items()):
                values.setdefault(sample.name, []).append(float(sample.value))
    for names in _NAMES:
        if all(name in values for name in names):
            running, waiting, used = (values[name] for name in names)
            return EngineLoad(sum(running), sum(waiting), sum(used) / len(used))
    raise ValueError("has not the metrics of vLLM or SGLang, such as vllm:num_requests_running")


async def watch_engines(addresses: Mapping[str, str], seen: Callable[[str, EngineLoad, float], None]) -> None:
    """Read the load of engines until the task is cancelled; say once when one cannot be read.

    Args:
        addresses: address of each engine's metrics, by the name of the model.
        seen: is called with the name, the load, and when it was asked for, on the monotonic clock.
    """
    timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await asyncio.gather(*(_watch(session, *each, seen) for each in addresses.items()))


async def _watch(
    session: aiohttp.ClientSession, name: str, address: str, seen: Callable[[str, EngineLoad, float], None]
) -> None:
    fails = False
    while True:
        asked = time.monotonic()
        try:
            async with session.get(address) as response:
                response.raise_for_status()
                load = engine_load(await response.text())
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            if not fails:
                reason = str(error) or type(error).__name__
                fix = "until then its load is that of the requests of this server"
                say(str(InputError(f"models.{name}.metrics", address, f"cannot be read: {reason}", fix)))
            fails = True
        else:
            if fails:
                say(f"models.{name}.metrics: is read again")
            fails = False
            seen(name, load, asked)
        await asyncio.sleep(max(0.0, _PERIOD_S - (time.monotonic() - asked)))
