"""Memory and tokens a second of token-level training, by number of experts and of layers with routers.

    python benchmarks/token_moe_scale.py

A Llama of random weights (512 hidden dimensions, FFNs of 1,024, one layer below the routers) with random
experts; batches of 8 sequences of 128 tokens. Every row has a process of its own, with one thread. Prints
Markdown. Needs Linux. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from markdown_tables import as_markdown
from rich.console import Console
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from experts.moe.frozen_base import Base
from experts.moe.sequences import measure_sequences
from experts.moe.token_pool import TokenPool
from router_rl.bench.child_process import in_child, status_mib
from router_rl.bench.table_layout import TextTable
from router_rl.methods.token_moe.backprop import GATES, train_gate
from router_rl.methods.token_moe.path_outcomes import train_outcome_table
from router_rl.methods.token_moe.token_reinforce import TokenReinforceHyperparameters, train_reinforce
from router_rl.methods.token_moe.token_training import Fit, Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import Hard, TopK

HIDDEN, FFN, VOCABULARY, LENGTH, BATCH = 512, 1_024, 1_000, 128, 8
SIZES = ((8, 2), (32, 2), (8, 8))

Learn = Callable[[TokenPool, LayerRouters, Training], Fit]
LEARNERS: dict[str, tuple[int, Learn]] = {
    "soft_gate": (1, lambda *fit: train_gate(fit[0], fit[1], GATES["soft_gate"], fit[2])[0]),
    "mixtral_top2": (2, lambda *fit: train_gate(fit[0], fit[1], GATES["mixtral_top2"], fit[2])[0]),
    "reinforce": (1, lambda *fit: train_reinforce(*fit, TokenReinforceHyperparameters())),
    "outcome_table": (1, lambda *fit: train_outcome_table(*fit)),
}


def main(sizes: Sequence[tuple[int, int]] = SIZES, steps: int = 5, limit: float = 600.0) -> None:
    """Measure and print.

    Args:
        sizes: experts and layers with routers of each model.
        steps: gradient steps that are timed.
        limit: seconds of a process.
    """
    console, rows = Console(stderr=True), []
    for (experts, layers), name, place in product(sizes, LEARNERS, ("memory", "disk")):
        words = [__file__, "measure", name, place, str(experts), str(layers), str(steps)]
        found = in_child(words, limit)
        numbers = ["stopped"] * 3
        if found is not None:
            numbers = [f"{found[key]:,.0f}" for key in ("before", "added", "rate")]
        rows.append([str(experts), str(layers), name, place, *numbers])
        console.print(*rows[-1])
    columns = ("experts", "layers", "learner", "weights in", "MiB before", "training adds, MiB", "tokens/s")
    note = (
        f"Batches of {BATCH} sequences of {LENGTH} tokens, hidden size {HIDDEN}, FFN size {FFN}, one thread. "
        "The experts' weights are in memory, or on disk (`problem.offload`). Memory is the process's own, "
        "without the pages of mapped files: before training, and what the peak of training adds."
    )
    print(as_markdown([TextTable("Memory and speed by size", columns, rows, note)]))


def measure(name: str, place: str, experts: int, layers: int, steps: int) -> dict[str, float]:
    """Measure a learner in this process.

    Args:
        name: of the learner.
        place: of the experts' weights: `memory` or `disk`.
        experts: N.
        layers: L, layers with routers.
        steps: gradient steps.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pool = random_pool(experts, layers, Path(folder) if place == "disk" else None)
        active, learn = LEARNERS[name]
        rule = Hard() if active == 1 else TopK(k=active)
        start = LayerRouters(layers, HIDDEN, rule, pool.tail.names)
        gc.collect()
        before, spent = status_mib("RssAnon") or 0.0, []
        with peak_of_own_memory() as peak:
            for epochs in (1, 1 + steps):
                began = time.perf_counter()
                learn(pool, start, Training(epochs=epochs, batch=BATCH, checks=1))
                spent.append(time.perf_counter() - began)
    rate = steps * BATCH * LENGTH / (spent[1] - spent[0])
    return {"before": before, "added": peak[0] - before, "rate": rate}


@contextmanager
def peak_of_own_memory() -> Iterator[list[float]]:
    """Sample the process's own memory a hundred times a second; the list has its peak, MiB."""
    peak, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], status_mib("RssAnon") or 0.0)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


class RandomFFNs(Sequence[dict[str, Tensor]]):
    """An expert's FFNs, each made when it is asked for."""

    def __init__(self, layers: int, seed: int) -> None:
        self.layers, self.seed = layers, seed

    def __len__(self) -> int:
        return self.layers

    def __getitem__(self, layer: Any) -> Any:
        generator = torch.Generator().manual_seed(self.seed * self.layers + layer)
        shapes = {"gate_proj": (FFN, HIDDEN), "up_proj": (FFN, HIDDEN), "down_proj": (HIDDEN, FFN)}
        return {part: 0.02 * torch.randn(shape, generator=generator) for part, shape in shapes.items()}


def random_pool(experts: int, layers: int, offload: Path | None) -> TokenPool:
    """Return a pool of random weights with one batch of random text in each part.

    Args:
        experts: N.
        layers: L, layers with routers.
        offload: folder for the experts' weights; None: they stay in memory.
    """
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
    made = {f"expert{number}": RandomFFNs(layers, number) for number in range(experts)}
    tail = base.tail(made, offload=offload)
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
        _name, _place, *_numbers = sys.argv[2:]
        print(json.dumps(measure(_name, _place, *map(int, _numbers))))
    else:
        jsonargparse.auto_cli(main)
