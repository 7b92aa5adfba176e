"""Memory and tokens a second of token-level training, by number of experts and of layers with routers.

    python benchmarks/token_moe_scale.py

A Llama of random weights (512 hidden dimensions, FFNs of 1,024, one layer below the routers) with random
experts; batches of 8 sequences of 128 tokens. Every size and learner has a process of its own, with one
thread. Prints Markdown. Needs Linux. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jsonargparse
import numpy as np
import torch
from markdown_tables import as_markdown
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from experts.moe.frozen_base import Base
from experts.moe.sequences import measure_sequences
from experts.moe.token_pool import TokenPool
from router_rl.bench.child_process import in_child, peak_mib, status_mib
from router_rl.bench.table_layout import TextTable
from router_rl.methods.token_moe.backprop import GATES, train_gate
from router_rl.methods.token_moe.counterfactual import OUTCOME_TABLE, train_counterfactual
from router_rl.methods.token_moe.token_reinforce import TokenReinforceHyperparameters, train_reinforce
from router_rl.methods.token_moe.token_training import Fit, Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import Hard, TopK

HIDDEN, FFN, VOCABULARY, LENGTH, BATCH = 512, 1_024, 1_000, 128, 8
SIZES = ((4, 2), (8, 2), (16, 2), (32, 2), (8, 4), (8, 8))

Learn = Callable[[TokenPool, LayerRouters, Training], Fit]
LEARNERS: dict[str, tuple[int, Learn]] = {
    "soft_gate": (1, lambda *fit: train_gate(fit[0], fit[1], GATES["soft_gate"], fit[2])[0]),
    "mixtral_top2": (2, lambda *fit: train_gate(fit[0], fit[1], GATES["mixtral_top2"], fit[2])[0]),
    "reinforce": (1, lambda *fit: train_reinforce(*fit, TokenReinforceHyperparameters())),
    "outcome_table": (1, lambda *fit: train_counterfactual(*fit, OUTCOME_TABLE)),
}


def main(sizes: Sequence[tuple[int, int]] = SIZES, steps: int = 5, limit: float = 600.0) -> None:
    """Measure and print.

    Args:
        sizes: experts and layers with routers of each model.
        steps: gradient steps that are timed.
        limit: seconds of a process.
    """
    console, rows = Console(stderr=True), []
    for experts, layers in sizes:
        for name in LEARNERS:
            words = [__file__, "measure", name, str(experts), str(layers), str(steps)]
            found = in_child(words, limit)
            numbers = ["stopped"] * 3
            if found is not None:
                numbers = [
                    f"{found['weights']:,.0f}",
                    f"{found['peak'] - found['before']:,.0f}",
                    f"{found['rate']:,.0f}",
                ]
            rows.append([name, str(experts), str(layers), *numbers])
            console.print(*rows[-1])
    columns = ("learner", "experts", "layers", "frozen weights, MiB", "training adds, MiB", "tokens/s")
    note = (
        f"Batches of {BATCH} sequences of {LENGTH} tokens, hidden size {HIDDEN}, FFN size {FFN}, one thread. "
        "Weights are the model's with all experts. The next column is the peak memory of the process during "
        "training minus its memory before."
    )
    print(as_markdown([TextTable("Memory and speed by size", columns, rows, note)]))


def measure(name: str, experts: int, layers: int, steps: int) -> dict[str, float]:
    """Measure a learner in this process.

    Args:
        name: of the learner.
        experts: N.
        layers: L, layers with routers.
        steps: gradient steps.
    """
    torch.set_num_threads(1)
    pool = random_pool(experts, layers)
    active, learn = LEARNERS[name]
    rule = Hard() if active == 1 else TopK(k=active)
    start = LayerRouters(layers, HIDDEN, rule, pool.tail.names)
    weights = sum(each.nbytes for each in (*pool.tail.buffers(), *pool.tail.parameters())) / 2**20
    before, spent = status_mib("VmRSS") or 0.0, []
    Path("/proc/self/clear_refs").write_text("5")  # what building needed is not training's peak
    for epochs in (1, 1 + steps):
        began = time.perf_counter()
        learn(pool, start, Training(epochs=epochs, batch=BATCH, checks=1))
        spent.append(time.perf_counter() - began)
    rate = steps * BATCH * LENGTH / (spent[1] - spent[0])
    return {"weights": weights, "before": before, "peak": peak_mib(), "rate": rate}


def random_pool(experts: int, layers: int) -> TokenPool:
    """Return a pool of random weights with one batch of random text in each part."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=layers + 1,
        num_attention_heads=8,
        max_position_embeddings=LENGTH,
    )
    base = Base(LlamaForCausalLM(config), layers, "random")
    shapes = {"gate_proj": (FFN, HIDDEN), "up_proj": (FFN, HIDDEN), "down_proj": (HIDDEN, FFN)}

    def expert() -> list[dict[str, torch.Tensor]]:
        return [{part: 0.02 * torch.randn(shape) for part, shape in shapes.items()} for _ in range(layers)]

    tail = base.tail({f"expert{number}": expert() for number in range(experts)})
    text = np.random.default_rng(0).integers(VOCABULARY, size=(BATCH, LENGTH + 1))
    part = measure_sequences(base, tail, text, np.zeros_like(text), doing=None)
    return TokenPool(
        name="random",
        base=base,
        tail=tail,
        average=tail,
        domains=tail.names,
        tree=("all", tuple(range(experts))),
        parts={"train": part, "validation": part.take(slice(0, 1)), "test": part.take(slice(0, 1))},
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        _name, *_numbers = sys.argv[2:]
        print(json.dumps(measure(_name, *map(int, _numbers))))
    else:
        jsonargparse.auto_cli(main)
