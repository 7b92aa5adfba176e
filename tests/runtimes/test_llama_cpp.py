"""Mixtures that llama.cpp's converter wrote, patched, compute in llama.cpp what they do in transformers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from runtimes.runtime_table import Row
from runtimes.served_mixtures import COUNT, PROMPTS, Expected, expected, make_mixtures, routers

from router_rl.exports.llama_cpp import patch_gguf
from router_rl.exports.llama_cpp.gguf_model import read_gguf_model
from router_rl.exports.llama_cpp.gguf_parity import verify_gguf
from router_rl.exports.llama_cpp.llama_runtime import GateTap, LlamaCpp, llama_cpp_version
from router_rl.exports.transformers import write_routers
from router_rl.routing import Router

ROOT = Path(__file__).parents[2]
ROUTERS = {"mixtral": "linear", "deepseek": "sigmoid with selection bias"}


def made(form: str) -> list[Router]:
    """Routers whose scores are far from 0: llama.cpp does not renormalise a sum of scores below 6.1e-5."""
    chosen = routers(ROUTERS[form])
    for router in chosen:
        with torch.no_grad():
            router.scorer.get_parameter("weight").mul_(0.2)
    return chosen


@pytest.fixture(scope="module")
def mixtures(
    dense: Callable[..., Any], tokenizer: bytes, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return the folders of the mixtures, by form."""
    folders = make_mixtures(dense, tmp_path_factory.mktemp("mixtures"))
    for form in ROUTERS:
        (folders[form] / "tokenizer.model").write_bytes(tokenizer)
    return {form: folders[form] for form in ROUTERS}


@pytest.fixture(scope="module")
def convert(converter: Path) -> Callable[..., str]:
    """Return a function that runs the converter as a user does, and returns what it printed."""

    def run(model: Path, out: Path, kind: str = "f32", *, stock: bool = False) -> str:
        program = [] if stock else ["-m", "experts.moe.gguf_converter"]
        arguments = [str(model), "--outfile", str(out), "--outtype", kind]
        done = subprocess.run(
            [sys.executable, *program, str(converter), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert stock or done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def converted(
    mixtures: dict[str, Path], convert: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return the mixtures as GGUF files, by form; `deepseek q8_0` has 8-bit matrices."""
    folder = tmp_path_factory.mktemp("gguf")
    files = {name: folder / f"{name.replace(' ', '-')}.gguf" for name in (*ROUTERS, "deepseek q8_0")}
    assert "exported to" in convert(mixtures["mixtral"], files["mixtral"], stock=True)
    convert(mixtures["deepseek"], files["deepseek"])
    convert(mixtures["deepseek"], files["deepseek q8_0"], "q8_0")
    return files


def answer(path: Path) -> Expected:
    """What llama.cpp computes: greedy tokens of each prompt; log-probabilities and experts of all tokens."""
    host = read_gguf_model(path).host
    tap = GateTap(host.experts, host.k)
    tokens: list[list[int]] = []
    logits: list[torch.Tensor] = []
    with LlamaCpp(path, tap=tap) as model:
        for prompt in PROMPTS:
            tokens.append(model.greedy(prompt, COUNT)[0])
        tap.ids.clear()
        for prompt, added in zip(PROMPTS, tokens, strict=True):
            logits.append(model.logits([*prompt, *added])[:-1])
    experts = [[set(row.tolist()) for row in torch.cat(ids)] for _, ids in sorted(tap.ids.items())]
    return Expected(tokens, torch.stack(logits).log_softmax(dim=-1), experts)


@pytest.mark.parametrize("form", ROUTERS)
@pytest.mark.parametrize("patched", [False, True])
def test_llama_cpp_computes_what_transformers_does(
    form: str,
    patched: bool,
    mixtures: dict[str, Path],
    converted: dict[str, Path],
    tmp_path: Path,
    record: Callable[[Row], None],
) -> None:
    reference, path = mixtures[form], converted[form]
    if patched:
        reference, path = tmp_path / "patched", tmp_path / "patched.gguf"
        write_routers(made(form), mixtures[form], reference)
        patch_gguf(made(form), converted[form], path)
    want, got = expected(reference, None), answer(path)
    same = sum(
        x == y for a, b in zip(got.tokens, want.tokens, strict=True) for x, y in zip(a, b, strict=True)
    )
    pairs = [
        (a, b)
        for ours, own in zip(got.experts, want.experts, strict=True)
        for a, b in zip(ours, own, strict=True)
    ]
    equal, difference = sum(a == b for a, b in pairs), float((got.logprobs - want.logprobs).abs().max())
    assert same == len(PROMPTS) * COUNT
    assert equal == len(pairs) > 500
    assert difference < 1e-4
    record(
        Row(
            runtime="llama.cpp",
            format="gguf",
            form=f"{form}, {'patched' if patched else 'as converted'}",
            router=ROUTERS[form] if patched else "its own gates",
            loads=True,
            tokens=f"{same} of {len(PROMPTS) * COUNT}",
            experts=f"{equal} of {len(pairs)}",
            logits=difference,
            version=llama_cpp_version(),
        )
    )


@pytest.mark.parametrize(
    ("form", "kind", "name"), [("mixtral", "f32", "mixtral"), ("deepseek", "q8_0", "deepseek q8_0")]
)
def test_patching_the_file_is_converting_the_patched_folder(
    form: str,
    kind: str,
    name: str,
    mixtures: dict[str, Path],
    converted: dict[str, Path],
    convert: Callable[..., str],
    tmp_path: Path,
) -> None:
    """Tensor by tensor, also where llama.cpp keeps all but the gates in 8 bits."""
    write_routers(made(form), mixtures[form], tmp_path / "patched")
    convert(tmp_path / "patched", tmp_path / "converted.gguf", kind)
    patch_gguf(made(form), converted[name], tmp_path / "patched.gguf")
    ours, theirs = (
        {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in reader.tensors}
        for reader in (gguf.GGUFReader(tmp_path / f"{name}.gguf") for name in ("patched", "converted"))
    )
    assert ours == theirs
    assert {theirs[name][0] for name in theirs if "ffn_gate_inp" in name} == {"F32"}
    assert {kind for kind, _ in theirs.values()} == {"F32", kind.upper()}


@pytest.mark.parametrize("form", ["mixtral", "deepseek", "deepseek q8_0"])
def test_the_routers_themselves_decide_the_same(
    form: str, converted: dict[str, Path], record: Callable[[Row], None]
) -> None:
    name = ROUTERS[form.split()[0]]
    parity = verify_gguf(made(form.split()[0]), converted[form])
    assert parity.passed, parity
    record(
        Row(
            runtime="llama.cpp",
            format="gguf",
            form=f"{form}, against the router",
            router=name,
            loads=True,
            tokens=f"{parity.tokens_equal} of {parity.tokens}",
            experts=f"{parity.decisions_equal} of {parity.decisions}",
            logits=parity.logits_max_error,
            version=parity.version,
        )
    )


def test_the_deepseek_form_needs_the_tokenizer_of_its_base(
    mixtures: dict[str, Path], convert: Callable[..., str], tmp_path: Path
) -> None:
    """The converter alone writes a GLM's special tokens, which no other base has."""
    assert "Error" in convert(mixtures["deepseek"], tmp_path / "model.gguf", stock=True)
