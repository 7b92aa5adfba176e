"""Other clients of the OpenAI protocol need only another address: LiteLLM and curl (`openai`: test_app)."""

from __future__ import annotations

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


def test_litellm(serve: Callable[..., Any]) -> None:
    with serve() as running:

        def ask(prompt: str, **fields: Any) -> Any:
            messages = [{"role": "user", "content": prompt}]
            address = {"api_base": f"{running.url}/v1", "api_key": "none"}
            return lite().completion(model="openai/auto", messages=messages, **address, **fields)

        answer = ask(PLUS)
        assert answer.choices[0].message.content == "small answers in some words"
        assert answer.usage.completion_tokens == 5
        chunks = ask(TIMES, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "large answers in some words "
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
