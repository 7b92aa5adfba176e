"""Tokens a second in llama.cpp: a model with its own gates, and with routers in them (docs/llama_cpp.md).

    python benchmarks/llama_cpp.py --out runs/llama_cpp

A Mixtral of random 8-bit weights, or `--model`, and copies that `patch --gguf` wrote with random routers of
one to `--k` experts per token, on one thread. The models take turns, and the thread's own time is measured,
so that a busy machine disturbs little. Speeds are medians; their ratios to the model's own
gates are medians over pairs of the same turn. Writes `llama_cpp.json`, prints Markdown.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

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
    repeats: int = 200,
    seed: int = 0,
) -> None:
    """Measure and print.

    Args:
        out: folder for the JSON.
        model: GGUF file of a mixture; None: a Mixtral of random weights.
        k: experts per token of the routers.
        prompt: tokens of a prompt.
        repeats: steps of each model.
        seed: of the weights.
    """
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        if model is None:
            model = Path(folder) / "mixtral.gguf"
            write_mixtral(model, seed)
        target = read_gguf_model(model)
        paths = {OWN: model}
        for each in k:
            name = f"routers, {each} a token"
            paths[name] = Path(folder) / f"{each}.gguf"
            patch_gguf(
                [_random(target.gate(layer), each, layer) for layer in target.layers], model, paths[name]
            )
        loaded = {
            name: stack.enter_context(LlamaCpp(path, context=prompt + repeats + 32))
            for name, path in paths.items()
        }
        words = loaded[OWN].tokens
        tokens = torch.randint(
            words, (prompt + repeats,), generator=torch.Generator().manual_seed(seed)
        ).tolist()
        prompts: dict[str, list[float]] = {name: [] for name in loaded}
        steps: dict[str, list[float]] = {name: [] for name in loaded}
        for turn in range(max(4, repeats // 20)):
            for name in _in_turn(loaded, turn):
                prompts[name].append(_seconds(loaded[name], tokens[:prompt], 0) / prompt)
        for turn in range(repeats):
            for name in _in_turn(loaded, turn):
                at = prompt + turn
                steps[name].append(_seconds(loaded[name], tokens[at : at + 1], at))
    rows = [
        {
            "gates": name,
            "k": target.host.k if name == OWN else k[place - 1],
            "prompt_tokens_per_second": 1 / statistics.median(prompts[name]),
            "prompt_ratio": _ratio(prompts[OWN], prompts[name]),
            "generated_tokens_per_second": 1 / statistics.median(steps[name]),
            "generated_ratio": _ratio(steps[OWN], steps[name]),
        }
        for place, name in enumerate(paths)
    ]
    facts = {
        "llama_cpp": llama_cpp_version(),
        "threads": 1,
        "prompt": prompt,
        "repeats": repeats,
        "seed": seed,
    }
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "llama_cpp.json", {**facts, "model": model.name, "rows": rows})
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


def _random(gate: Gate, k: int, seed: int) -> Gate:
    weight = torch.randn(gate.weight.shape, generator=torch.Generator().manual_seed(seed))
    return Gate(weight=weight / gate.weight.shape[1] ** 0.5, k=k, score=gate.score)


def _in_turn(loaded: dict[str, LlamaCpp], turn: int) -> list[str]:
    """The models in another order each turn: one that ran twice in a row would find its weights cached."""
    names = list(loaded)
    return names[turn % len(names) :] + names[: turn % len(names)]


def _seconds(model: LlamaCpp, tokens: list[int], start: int) -> float:
    began = time.thread_time()  # llama.cpp computes in this thread, since it has one
    model.logits(tokens, start)
    return time.thread_time() - began


def _ratio(own: list[float], other: list[float]) -> float:
    """Speed relative to the model's own gates, the median over pairs that ran after each other."""
    return statistics.median(a / b for a, b in zip(own, other, strict=True))


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
