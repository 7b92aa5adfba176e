"""A stopped fit of token-level routers goes on to the result that it would have had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_on_processes import start_of

from experts.moe.answer_pool import answer_pool
from experts.moe.token_pool import TokenPool
from router_rl.methods.checkpoint import Checkpoint
from router_rl.methods.token_moe.backprop import GATES, joint, train_gate
from router_rl.methods.token_moe.grpo import GrpoHyperparameters, train_grpo
from router_rl.methods.token_moe.path_outcomes import train_outcome_table
from router_rl.methods.token_moe.token_ppo import TokenPPOHyperparameters, train_ppo
from router_rl.methods.token_moe.token_reinforce import TokenReinforceHyperparameters, train_reinforce
from router_rl.methods.token_moe.token_remoe import dense_stage, train_remoe
from router_rl.methods.token_moe.token_training import Fit, Training, take_steps
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import Hard, TopK

TRAINING = Training(epochs=3, batch=6, checks=3, learning_rate=0.03)


def _weight_score(routers: LayerRouters) -> float:
    """A score that falls as weights grow, so that no method returns where it started."""
    return -float(sum(each.abs().sum() for each in routers.state_dict().values()))


def _start(pool: TokenPool, k: int) -> LayerRouters:
    return start_of(pool, Hard() if k == 1 else TopK(k=k))


def _gate(name: str, k: int) -> Callable[[TokenPool, Training], Fit]:
    gate = joint(GATES["soft_gate"]) if name == "joint" else GATES[name]
    gate = replace(gate, bias_speed=0.1) if gate.bias_speed else gate
    return lambda pool, training: train_gate(pool, _start(pool, k), gate, training, score=None)[0]


def _grpo(pool: TokenPool, training: Training) -> Fit:
    settings = GrpoHyperparameters(iterations=5, prompts=4, group=4, soften=1.0)
    answers = answer_pool(3, 1, 1)
    return train_grpo(answers, _start(answers, 1), training, settings, _weight_score)


LEARNERS: dict[str, Callable[[TokenPool, Training], Fit]] = {
    "joint": _gate("joint", 1),
    "deepseek_v3_top2": _gate("deepseek_v3_top2", 2),  # its bias is part of the state
    "outcome_table": lambda pool, training: train_outcome_table(
        pool, _start(pool, 1), training, score=_weight_score
    ),
    "remoe_gate": lambda pool, training: train_remoe(
        pool, dense_stage(pool, _start(pool, 1)), 1, training
    ),  # its penalty is part of the state
    "reinforce": lambda pool, training: train_reinforce(
        pool, _start(pool, 1), training, TokenReinforceHyperparameters(), score=_weight_score
    ),
    "router_ppo": lambda pool, training: train_ppo(
        pool, _start(pool, 1), training, TokenPPOHyperparameters()
    ),  # its critic is part of the state
    "grpo": _grpo,
}


class _Killed(Exception):
    pass


@pytest.mark.parametrize("name", LEARNERS)
def test_a_stopped_fit_ends_as_an_unstopped_one(micro_pool: TokenPool, tmp_path: Path, name: str) -> None:
    whole = LEARNERS[name](micro_pool, TRAINING)
    checkpoint = Checkpoint(tmp_path / "state", {"name": name}, seconds=0.0)
    seen: list[int] = []

    def stop(step: int, steps: int, message: str) -> None:
        seen.append(step)
        if len(seen) == 2:
            raise _Killed

    stored = replace(TRAINING, checkpoint=checkpoint)
    with pytest.raises(_Killed):
        LEARNERS[name](micro_pool, replace(stored, report=stop))
    state: Any = checkpoint.load()
    assert state["step"] == seen[1] - 1
    resumed = LEARNERS[name](micro_pool, replace(stored, report=lambda step, *rest: seen.append(step)))
    assert seen[2] == seen[1] > seen[0]  # the validation where it stopped, and none before
    assert resumed.curve == whole.curve
    assert resumed.validation == whole.validation
    assert resumed.seconds >= state["seconds"] > 0.0
    torch.testing.assert_close(resumed.routers.state_dict(), whole.routers.state_dict(), rtol=0, atol=0)
    assert not torch.equal(resumed.routers.pairs()[0][0], _start(micro_pool, 1).pairs()[0][0])


def test_the_best_routers_are_kept_over_a_resumption(micro_pool: TokenPool, tmp_path: Path) -> None:
    stored = replace(TRAINING, checkpoint=Checkpoint(tmp_path / "state", {}, seconds=0.0))

    def run(training: Training, routers: LayerRouters, stop_at: int | None) -> Fit:
        def step(number: int, optimizer: torch.optim.Optimizer) -> str:
            if number == stop_at:
                raise _Killed
            with torch.no_grad():
                for each in routers.parameters():
                    each.fill_(float(number))
            return "{}"

        def score(routers: LayerRouters) -> float:
            return abs(float(routers.pairs()[0][0].flatten()[0]) - 2.0)  # the best is after the second step

        return take_steps(routers, training, 6, step, score, torch.Generator())

    with pytest.raises(_Killed):
        run(stored, _start(micro_pool, 1), stop_at=5)
    fit = run(stored, _start(micro_pool, 1), stop_at=None)
    assert (fit.validation, len(fit.curve)) == (0.0, 4)
    assert all((each == 2.0).all() for each in fit.routers.parameters())
