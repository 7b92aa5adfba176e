"""Tokens a second in llama.cpp: a model with its own gates, and with routers in them (docs/llama_cpp.md).

    python benchmarks/llama_cpp.py --out runs/llama_cpp

A Mixtral of random 8-bit weights, or `--model`; a byte-identical copy, whose ratio is the noise; and copies
that `patch --gguf` wrote: with the model's own gates, their experts in another order and `--k` of them per
token, and with random routers. On one thread; each round loads every model alone, in another order, and
measures the thread's own time, so that a busy machine and the place in memory disturb little. Speeds are
medians over rounds; ratios to the model's own gates are medians of the rounds' ratios. Writes
`llama_cpp.json`, prints Markdown.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import jsonargparse
import numpy as np
import torch

from experts.io.atomic import write_json
from router_rl.exports.llama_cpp import patch_gguf
from router_rl.exports.llama_cpp.gguf_model import read_gguf_model
from router_rl.exports.llama_cpp.llama_runtime import LlamaCpp, llama_cpp_version
from router_rl.exports.transformers import Gate

HIDDEN, INNER, BLOCKS, EXPERTS, WORDS, HEADS = 512, 1024, 6, 8, 2048, 8
OWN = "its own gates"


def main(
    out: Path = Path("runs/llama_cpp"),
    model: Path | None = None,
    k: tuple[int, ...] = (1, 2, 4),
    prompt: int = 256,
    steps: int = 48,
    rounds: int = 15,
    seed: int = 0,
) -> None:
    """Measure and print.

    Args:
        out: folder for the JSON.
        model: GGUF file of a mixture; None: a Mixtral of random weights.
        k: experts per token of the routers.
        prompt: tokens of a prompt.
        steps: tokens after it, one at a time.
        rounds: how often each model is measured.
        seed: of the weights.
    """
    spent: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if model is None:
            model = Path(folder) / "mixtral.gguf"
            write_mixtral(model, seed)
        target = read_gguf_model(model)
        # All are copies: pages of a file that was written in another way can be larger in the system's cache.
        paths = {OWN: Path(folder) / "own.gguf", "its own gates, copied": Path(folder) / "copy.gguf"}
        for path in paths.values():
            shutil.copyfile(model, path)
        numbers = dict.fromkeys(paths, target.host.k)
        gates = [target.gate(layer) for layer in target.layers]
        made = {
            f"routers, {each} a token": [
                Gate(weight=gate.weight.roll(1, dims=0), k=each, score=gate.score) for gate in gates
            ]
            for each in k
        }
        made["random routers"] = [_random(gate, seed + place) for place, gate in enumerate(gates)]
        for name, routers in made.items():
            paths[name], numbers[name] = Path(folder) / f"{len(paths)}.gguf", routers[0].k or target.host.k
            patch_gguf(routers, model, paths[name])
        names = list(paths)
        for turn in range(rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                spent.setdefault(name, []).append(_seconds(paths[name], prompt, steps, seed + turn))
    rows: list[dict[str, Any]] = [
        {
            "gates": name,
            "k": numbers[name],
            **{
                key: value
                for place, what in enumerate(("prompt", "generated"))
                for key, value in _speeds(
                    what, [each[place] for each in spent[name]], [each[place] for each in spent[OWN]]
                )
            },
        }
        for name in names
    ]
    facts = {
        "llama_cpp": llama_cpp_version(),
        "prompt": prompt,
        "steps": steps,
        "rounds": rounds,
        "seed": seed,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "llama_cpp.json", {**facts, "threads": 1, "model": model.name, "rows": rows})
    print("| gates | experts a token | prompt, tokens/s (ratio) | generated, tokens/s (ratio) |")
    print("| --- | ---: | ---: | ---: |")
    for row in rows:
        cells = [
            f"{row[f'{what}_tokens_per_second']:.0f} ({row[f'{what}_ratio']:.3f})"
            for what in ("prompt", "generated")
        ]
        print(f"| {row['gates']} | {row['k']} | {' | '.join(cells)} |")


def write_mixtral(path: Path, seed: int) -> None:
    """Write a Mixtral of random 8-bit weights.

    Args:
        path: of the file.
        seed: of the weights.
    """
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(BLOCKS)
    writer.add_context_length(8192)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(WORDS)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_tokenizer_model("none")
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (WORDS, HIDDEN), "output": (WORDS, HIDDEN)}
    norms = ["output_norm"]
    for block in range(BLOCKS):
        at = f"blk.{block}"
        norms += [f"{at}.attn_norm", f"{at}.ffn_norm"]
        shapes |= {f"{at}.attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
        shapes |= {f"{at}.ffn_{part}_exps": (EXPERTS, INNER, HIDDEN) for part in ("gate", "up")}
        shapes[f"{at}.ffn_down_exps"] = (EXPERTS, HIDDEN, INNER)
        gate = random.normal(size=(EXPERTS, HIDDEN)) / HIDDEN**0.5
        writer.add_tensor(f"{at}.ffn_gate_inp.weight", gate.astype(np.float32))
    for name in norms:
        writer.add_tensor(f"{name}.weight", np.ones(HIDDEN, dtype=np.float32))
    kind = gguf.GGMLQuantizationType.Q8_0
    for name, shape in shapes.items():
        values = (random.normal(size=shape) / shape[-1] ** 0.5).astype(np.float32)
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _random(gate: Gate, seed: int) -> Gate:
    weight = torch.randn(gate.weight.shape, generator=torch.Generator().manual_seed(seed))
    return Gate(weight=weight / gate.weight.shape[1] ** 0.5, k=gate.k, score=gate.score)


def _seconds(path: Path, prompt: int, steps: int, seed: int) -> tuple[float, float]:
    """Seconds of this thread for each token of a prompt, and for each of the tokens after it."""
    with LlamaCpp(path, context=prompt + steps) as model:
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(model.tokens, (prompt + steps,), generator=generator).tolist()
        model.logits(tokens[:prompt])  # reads the file
        began = time.thread_time()  # llama.cpp computes in this thread, since it has one
        model.logits(tokens[:prompt])
        middle = time.thread_time()
        for at in range(prompt, prompt + steps):
            model.logits(tokens[at : at + 1], at)
        return (middle - began) / prompt, (time.thread_time() - middle) / steps


def _speeds(what: str, times: list[float], own: list[float]) -> Iterator[tuple[str, float]]:
    yield f"{what}_tokens_per_second", 1 / statistics.median(times)
    yield f"{what}_ratio", statistics.median(a / b for a, b in zip(own, times, strict=True))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
