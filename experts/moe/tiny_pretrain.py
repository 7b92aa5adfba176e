"""Training of the tiny pool's weights: `python -m experts.moe.tiny_pretrain` (about ten minutes on one core).

A Llama base is trained briefly on all domains; then a copy of its last FFNs is trained on each domain.
Weights are stored as float16 and loaded as float32.
"""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import save_file

from ..io.atomic import replacing
from ..io.progress import say
from .branch import BranchRecipe, branch
from .tiny import DEPTH, LENGTH, WEIGHTS, tiny_base, tiny_model
from .tiny_text import DOMAINS, token_rows
from .token_pool import write_ffns

__all__ = ["main"]

_BASE_STEPS, _BATCH, _ROWS = 600, 32, 640
_FIRST = 100_000  # documents from here on train the models; those below are for routers


def main() -> None:
    """Train the base and its experts, and write their weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows = {domain: torch.from_numpy(token_rows(domain, _FIRST, _ROWS, LENGTH)) for domain in DOMAINS}
    everything = torch.cat(list(rows.values()))
    model = tiny_model().train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=_BASE_STEPS, pct_start=0.1)
    for step in range(_BASE_STEPS):
        batch = everything[torch.randint(len(everything), (_BATCH,))]
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            say(f"base, step {step}: {float(loss.detach()):.3f}")
    state = {name: tensor.half().float() for name, tensor in model.state_dict().items()}
    base = tiny_base(state)
    experts = {}
    for domain in DOMAINS:
        hidden = base.trunk(rows[domain][:, :-1])
        recipe = BranchRecipe(learning_rate=3e-3, epochs=5, batch=32)
        losses: list[float] = []
        experts[domain] = branch(base, hidden, rows[domain][:, 1:], recipe, on_step=losses.append)
        say(f"{domain}: {losses[0]:.3f} to {np.mean(losses[-10:]):.3f}")
    half = {
        name: [{part: weight.half() for part, weight in layer.items()} for layer in layers]
        for name, layers in experts.items()
    }
    write_ffns(WEIGHTS.with_name("tiny_experts.safetensors"), half, depth=DEPTH)
    keep = {name: tensor.half().contiguous() for name, tensor in state.items() if name != "lm_head.weight"}
    with replacing(WEIGHTS) as temporary:
        save_file(keep, temporary)


if __name__ == "__main__":
    main()
