"""docs/llama_cpp.md runs as written, with llama.cpp's converter and llama.cpp."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from code_blocks import ROOT, Reader, blocks_of
from tokenizers import Tokenizer, models, pre_tokenizers

SMALL = "--problem.length 8 --problem.train 8 --problem.validation 2 --problem.test 2 --problem.epochs 1"


@pytest.mark.timeout(900)
def test_every_block_runs(
    dense: Callable[..., Any],
    converter: Path,
    tokenizer: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("llama.cpp").symlink_to(converter.parent)
    write_models(dense, tokenizer)
    reader = Reader({"train --env token_moe": SMALL}, {})
    for block in blocks_of("docs/llama_cpp.md"):
        if block.language == "python":
            reader.run(block)
            continue
        for line in block.text.splitlines():
            program, *words = shlex.split(line)
            if program == "python":
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                subprocess.run([sys.executable, *words], check=True, env=environment, capture_output=True)
            elif program != "pip":
                reader.command(line, block.place)
    runtime = json.loads(Path("gates/parity.json").read_text())["runtime"]
    assert (runtime["name"], runtime["tokens_equal"]) == ("llama.cpp", 240)
    assert Path("routed.gguf").stat().st_size == Path("mixture.gguf").stat().st_size


def write_models(dense: Callable[..., Any], tokenizer: bytes) -> None:
    """Write a base, two models that were fine-tuned from it, and two texts.

    Args:
        dense: makes a dense model.
        tokenizer: a SentencePiece model, which the converter reads.
    """
    import transformers

    base = dense(Path("llama"), vocab_size=96)
    for name in ("llama-code", "llama-german"):
        dense(Path(name), near=base, vocab_size=96)
    words: Any = Tokenizer(models.WordLevel({f"w{i}": i for i in range(96)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained("llama")
    Path("llama", "tokenizer.model").write_bytes(tokenizer)
    Path("texts").mkdir()
    for step, name in ((1, "code"), (3, "german")):
        lines = [" ".join(f"w{(start + step * i) % 96}" for i in range(24)) for start in range(64)]
        Path("texts", f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
