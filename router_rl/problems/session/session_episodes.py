"""Run a policy of conversations and measure what it earns."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.session import SessionCore

from ..measure import Measurement
from ..problem import Policy

__all__ = ["run_sessions"]


@torch.inference_mode()
def run_sessions(policy: Policy, core: SessionCore, turns: int) -> Measurement:
    """Run conversations one after another in every lane; values are means over a lane's turns.

    Args:
        policy: observations [B, D + 5 N + 4] to experts [B].
        core: at the start of a conversation.
        turns: number of turns of each lane; the last conversation may be cut.

    Returns:
        utility [B]; the parts quality, compute, missed_k (1,000 input tokens that were not cached) and
        switched (fraction of turns); the fact cache_hit, the share of the input tokens that was cached.
    """
    totals: dict[str, Tensor] = {}
    input_tokens = torch.zeros(core.lanes, dtype=torch.float64)
    policy.start(core)
    for _ in range(turns):
        input_tokens += core.table.context[core.state.place]
        step = core.step(policy.act(core.observation()))
        for name, part in {"utility": step.reward, **step.parts}.items():
            totals[name] = totals.get(name, 0.0) + part.double()
        core.clear(step.terminated)
    means = {name: (total / turns).numpy() for name, total in totals.items()}
    return Measurement(
        utility=means["utility"],
        parts={
            "quality": means["quality"],
            "compute": means["compute"],
            "missed_k": means["missed_tokens"] / 1_000,
            "switched": means["switched"],
        },
        facts={"cache_hit": 1.0 - float(totals["missed_tokens"].sum() / input_tokens.sum())},
        share=means["share"].astype("float32"),
    )
