"""Routers of every way to train that processes share, each with its last weights: a program and a function.

The score falls with every validation, so that no method returns where it started.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from experts.moe.answer_pool import answer_pool
from experts.moe.tiny import tiny_pool
from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe.backprop import GATES, joint, train_gate
from router_rl.methods.token_moe.grpo import GrpoHyperparameters, train_grpo
from router_rl.methods.token_moe.path_outcomes import train_outcome_table
from router_rl.methods.token_moe.processes import processes
from router_rl.methods.token_moe.right_answers import RightAnswersHyperparameters, train_on_right_answers
from router_rl.methods.token_moe.token_reinforce import TokenReinforceHyperparameters, train_reinforce
from router_rl.methods.token_moe.token_remoe import dense_stage, train_remoe
from router_rl.methods.token_moe.token_training import Fit, Training
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import Hard, Selection, TopK

__all__ = ["start_of", "trained"]


def start_of(pool: TokenPool, rule: Selection) -> LayerRouters:
    """Return small random routers."""
    made = LayerRouters(pool.tail.depth, pool.tail.hidden, rule, pool.tail.names)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return made


def trained() -> dict[str, Tensor]:
    """Return the weights of the first layer's router by method, and how they started."""
    text, answers = tiny_pool(2, 3, 12), answer_pool(3, 1, 1)
    training = Training(epochs=1, batch=6, checks=2, learning_rate=0.03)
    hard, two, asked = start_of(text, Hard()), start_of(text, TopK(k=2)), start_of(answers, Hard())

    def falling() -> Callable[[Any], float]:
        count = itertools.count()
        return lambda routers: -float(next(count))

    def gate(name: str, start: LayerRouters, **changes: Any) -> Fit:
        return train_gate(text, start, replace(GATES[name], **changes), training, score=falling())[0]

    grpo = GrpoHyperparameters(iterations=3, prompts=5, group=6, compute_weight=0.1, soften=1.0)
    right = RightAnswersHyperparameters(rounds=1, epochs=1, group=4, learning_rate=0.03)
    reinforce = TokenReinforceHyperparameters()
    fits = {
        "soft_gate": gate("soft_gate", hard),
        "mixtral_top2": gate("mixtral_top2", two),  # with a balance loss
        "deepseek_v3_top2": gate("deepseek_v3_top2", two),  # with a bias that follows the load
        "joint": train_gate(text, hard, joint(GATES["soft_gate"]), training, score=falling())[0],
        "outcome_table": train_outcome_table(text, hard, training, score=falling()),
        "remoe_gate": train_remoe(text, dense_stage(text, hard), 1, training, score=falling()),
        "reinforce": train_reinforce(text, hard, training, reinforce, score=falling()),
        "grpo": train_grpo(answers, asked, training, grpo, falling()),
        "right_answers": train_on_right_answers(answers, asked, training, right, falling()),
    }
    weights = {name: fit.routers.pairs()[0][0] for name, fit in fits.items()}
    starts = {"hard": hard, "two": two, "asked": asked}
    return {**weights, **{f"start, {name}": each.pairs()[0][0] for name, each in starts.items()}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert processes().size == 2  # accelerate launch --cpu would start one
    result = trained()
    if processes().rank == 0:
        save_file({name: tensor.contiguous() for name, tensor in result.items()}, Path(sys.argv[1]))
