"""Other clients of the OpenAI protocol need only another address: LiteLLM and curl (`openai`: test_app)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from experts.llm.lite import lite

# LiteLLM reads streams with a name that Pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the:DeprecationWarning")

PLUS, TIMES = "What is 3 plus 4?", "What is 3 times 4?"


async def _asked(url: str) -> tuple[Any, str]:
    """Return an answer through LiteLLM, and the text of a streamed one."""
    litellm = lite()

    def ask(prompt: str, **fields: Any) -> Any:
        messages = [{"role": "user", "content": prompt}]
        address = {"api_base": f"{url}/v1", "api_key": "none"}
        return litellm.acompletion(model="openai/auto", messages=messages, **address, **fields)

    try:
        answer = await ask(PLUS)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in await ask(TIMES, stream=True)]
        return answer, "".join(pieces)
    finally:
        await litellm.close_litellm_async_clients()
        litellm.in_memory_llm_clients_cache.flush_cache()


def test_litellm(serve: Callable[..., Any]) -> None:
    with serve() as running:
        answer, streamed = asyncio.run(_asked(running.url))
        assert answer.choices[0].message.content == "small answers in some words"
        assert answer.usage.completion_tokens == 5
        assert streamed == "large answers in some words "
        assert [(row["expert"], row["status"]) for row in running.rows()] == [
            ("small", "ok"),
            ("large", "ok"),
        ]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEYS", "key-of-a-client")
    with serve(api_key_env="MY_KEYS") as running:

        def curl(*words: str) -> str:
            command = ["curl", "--silent", "--show-error", "--no-buffer", "--max-time", "60", *words]
            environment = {**os.environ, "no_proxy": "127.0.0.1"}
            return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

        def ask(prompt: str, **fields: Any) -> str:
            body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": prompt}], **fields})
            headers = ("-H", "Authorization: Bearer key-of-a-client", "-H", "Content-Type: application/json")
            return curl(f"{running.url}/v1/chat/completions", *headers, "-d", body)

        answer = json.loads(ask(PLUS))
        assert answer["choices"][0]["message"]["content"] == "small answers in some words"
        events = [line[6:] for line in ask(TIMES, stream=True).splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
        assert "".join(delta.get("content") or "" for delta in deltas) == "large answers in some words "
        assert json.loads(curl(f"{running.url}/healthz"))["status"] == "ok"
        assert "the API key is missing or wrong" in curl(f"{running.url}/v1/models")
