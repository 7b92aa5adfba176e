"""Keys stay where they are: not in answers, pages, metrics, the log or what the server prints."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fault_server import FaultServer

from experts import InputError
from experts.llm.key_hiding import hides, without_keys
from router_rl.serving.listen import _listening
from router_rl.serving.log_store import LogStore
from router_rl.serving.serve_options import ServeOptions

PLUS = "What is 3 plus 4?"
SECRETS = ("secret-of-the-model", "secret-of-a-client", "secret-of-the-hashes")


@pytest.mark.parametrize("stream", [False, True])
def test_keys_are_in_no_error_page_or_log(
    serve: Callable[..., Any],
    backend: FaultServer,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    stream: bool,
) -> None:
    """The models repeat the key that they were sent, as some servers do."""
    for name, secret in zip(("OF_MODEL", "OF_CLIENT", "OF_HASHES"), SECRETS, strict=True):
        monkeypatch.setenv(name, secret)
    models.write_text(models.read_text().replace("timeout: 2", "timeout: 2, api_key_env: OF_MODEL"))
    with serve(api_key_env="OF_CLIENT", hash_key_env="OF_HASHES") as running:
        running.http.headers["authorization"] = "Bearer secret-of-a-client"
        assert running.chat(PLUS).status_code == 200
        failed = running.chat(f"{PLUS} <<echo>>", stream=stream)
        assert failed.status_code == 503
        assert "Incorrect API key provided" in failed.text  # the reason is said
        pages = [running.http.get(path).text for path in ("/", "/v1/status", "/metrics", "/healthz")]
        log = str(running.rows())
    assert {each["authorization"] for each in backend.requests} == {"Bearer secret-of-the-model"}
    printed = "".join(capfd.readouterr())
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("log.db*")).decode("latin-1")
    for text in (failed.text, *pages, log, printed, stored):
        assert not [secret for secret in SECRETS if secret in text]


def test_keys_are_hidden_in_texts_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_PROVIDER_API_KEY", "sk-of-a-provider")
    monkeypatch.setenv("HOME_OF_SOMEBODY", "/home/somebody")
    monkeypatch.setenv("SHORT_KEY", "none")
    hides("a-key-of-a-model-list")
    text = "refused: sk-of-a-provider, a-key-of-a-model-list-2, none, /home/somebody"
    assert without_keys(text) == "refused: ***, ***-2, none, /home/somebody"


@pytest.mark.parametrize("url", ["oracle://me:p@ss@host/log", "nothing://me:p@ss@host/log"])
def test_a_password_with_an_at_sign_is_in_no_error(url: str) -> None:
    with pytest.raises(InputError) as caught:
        LogStore(url)
    assert "ss@" not in str(caught.value)


def test_it_listens_on_this_machine_only_unless_told_otherwise() -> None:
    with _listening(ServeOptions(port=0)) as listening:
        assert listening.getsockname()[0] == "127.0.0.1"
        assert listening.family == socket.AF_INET
    with _listening(ServeOptions(port=0, host="0.0.0.0")) as listening:
        assert listening.getsockname()[0] == "0.0.0.0"
