"""Memory and time of one training step of each learner of layer routers.

    python benchmarks/token_moe_cost.py
    python benchmarks/token_moe_cost.py --pool runs/token_moe/pool

Memory is what autograd keeps from the forward for the backward pass, without weights: the learners differ in
nothing else, since all hold the same frozen experts. Seconds are process time.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import jsonargparse
import numpy as np
import torch
from token_moe_methods import METHODS, Study
from token_moe_pool import open_pool

from experts.moe.tiny import tiny_pool
from router_rl.methods.token_moe.token_training import Training

SHOWN = (
    *("soft_gate", "straight_through", "switch", "mixtral_top2"),
    *("joint", "reinforce", "counterfactual", "outcome_table"),
)


def main(pool: Path | None = None, batch: int = 8, repeats: int = 5) -> None:
    """Print the table.

    Args:
        pool: folder of a pool; the tiny one if None.
        batch: sequences per step.
        repeats: steps timed.
    """
    torch.set_num_threads(1)
    whole = tiny_pool(24, 48) if pool is None else open_pool(pool)
    few = {name: part.take(np.arange(batch)) for name, part in whole.parts.items()}
    study = Study(replace(whole, parts=few))
    rows = whole.parts["train"].length * batch
    print(f"`{whole.name}`: {batch} sequences of {rows // batch} tokens per step, one thread\n")
    print("| learner | kept for backward, MB | bytes per token | seconds per step | tokens/s |")
    print("|---|---:|---:|---:|---:|")
    for name in SHOWN:
        kept, seconds = bytes_kept(study, name, batch), seconds_a_step(study, name, batch, repeats)
        print(f"| {name} | {kept / 1e6:.1f} | {kept / rows:,.0f} | {seconds:.3f} | {rows / seconds:,.0f} |")


def bytes_kept(study: Study, name: str, batch: int) -> int:
    """Bytes that autograd keeps in one step, each storage once, without the frozen weights."""
    frozen = {
        t.untyped_storage().data_ptr() for t in (*study.pool.tail.buffers(), *study.pool.tail.parameters())
    }
    seen: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # alive, so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        METHODS[name].learn(study, Training(epochs=1, batch=batch, checks=1))
    return sum(seen.values())


def seconds_a_step(study: Study, name: str, batch: int, repeats: int) -> float:
    """Process time of a step, from the difference of a long and a short training."""
    spent: list[float] = []
    for epochs in (1, 1 + repeats):
        start = time.process_time()
        METHODS[name].learn(study, Training(epochs=epochs, batch=batch, checks=1))
        spent.append(time.process_time() - start)
    return (spent[1] - spent[0]) / repeats


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
