"""Training of the answers pool's weights: `python -m experts.moe.answer_pretrain` (ten minutes).

The trunk, the attention and all FFNs of the last layers are trained together: the general FFNs on the text
of all tasks with its mistakes, those of each task's expert on prompts of its task with right answers. A
linear probe of the task on the trunk's states, from the first digit on, keeps the task decodable where
routers decide; it is not stored. Weights are stored as float16 and loaded as float32.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..io.atomic import replacing
from ..io.progress import say
from .answer_pool import DEPTH, EXPERTS, WEIGHTS, answer_model
from .answer_tasks import ANSWER, PROMPT, TASKS, text_rows
from .token_pool import write_ffns

__all__ = ["main", "train_together", "write"]

_STEPS, _BATCH, _ROWS = 1600, 16, 20_000
_FIRST = 100_000  # problems from here on train the models; those below are for routers
_PROBE, _PROMPTS = 0.3, 0.5  # weights of the probe's loss and of the prompts' loss
_PARTS = ("gate_proj", "up_proj", "down_proj")


class _Together(nn.Module):
    """A base, the experts' FFNs, and a probe of the task."""

    def __init__(self) -> None:
        super().__init__()
        model: Any = answer_model()
        self.model = model.train().requires_grad_(True)
        self.inner = model.model
        self.below = len(self.inner.layers) - DEPTH
        routed = self.inner.layers[self.below :]
        self.ffns = nn.ModuleList(nn.ModuleList(copy.deepcopy(layer.mlp) for layer in routed) for _ in TASKS)
        self.probe = nn.Linear(model.config.hidden_size, len(TASKS))

    def trunk(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """Return the trunk states [S, T, H] of tokens [S, T], and the rotary embedding."""
        hidden = self.inner.embed_tokens(tokens)
        rotary = self.inner.rotary_emb(hidden, position_ids=torch.arange(tokens.shape[1]).unsqueeze(0))
        for layer in self.inner.layers[: self.below]:
            hidden = layer(hidden, position_embeddings=rotary, attention_mask=None)
        return hidden, rotary

    def tail(self, hidden: Tensor, rotary: Any, expert: int | None) -> Tensor:
        """Return the logits [S, T, V] with one expert, or with the general FFNs."""
        for number, layer in enumerate(self.inner.layers[self.below :]):
            mixed = layer.self_attn(layer.input_layernorm(hidden), rotary, None)[0]
            hidden = hidden + mixed
            ffn = layer.mlp if expert is None else self.ffns[expert][number]  # type: ignore[index]
            hidden = hidden + ffn(layer.post_attention_layernorm(hidden))
        return self.model.lm_head(self.inner.norm(hidden))


def train_together(steps: int, rows: int, on_step: Callable[[int, float, _Together], None]) -> _Together:
    """Train base and experts.

    Args:
        steps: gradient steps.
        rows: problems of each task.
        on_step: a callback with the number and loss of a step, and the models after it.
    """
    torch.manual_seed(0)
    right = [torch.from_numpy(text_rows(task, _FIRST, rows, mistaken=0.0)) for task in TASKS]
    text = [torch.from_numpy(text_rows(task, _FIRST, rows)) for task in TASKS]
    made = _Together()
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    task_of = torch.arange(len(TASKS)).repeat_interleave(_BATCH)
    for step in range(steps):
        drawn = [torch.randint(rows, (_BATCH,)) for _ in TASKS]
        tokens = torch.cat([each[some] for each, some in zip(right, drawn, strict=True)])
        hidden, rotary = made.trunk(tokens[:, :-1])
        loss = _PROBE * _probe_loss(made, hidden, task_of)
        for task in range(len(TASKS)):
            own = slice(task * _BATCH, (task + 1) * _BATCH)
            loss = loss + _loss(made.tail(hidden[own], rotary, task), tokens[own])
        if step % 2 == 0:
            tokens = torch.cat([each[some] for each, some in zip(text, drawn, strict=True)])
            loss = loss + _loss(made.tail(*made.trunk(tokens[:, :-1]), None), tokens)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        on_step(step, float(loss.detach()), made)
    return made


def main() -> None:
    """Train the base and its experts, and write their weights."""
    torch.set_num_threads(1)

    def report(step: int, loss: float, made: _Together) -> None:
        if step % 200 == 0:
            say(f"step {step}: {loss:.3f}")

    write(train_together(_STEPS, _ROWS, report))


def write(made: _Together) -> None:
    """Write the weights of base and experts.

    Args:
        made: the trained models.
    """
    experts = {
        task: [
            {part: ffn.get_parameter(f"{part}.weight").detach().half() for part in _PARTS}
            for ffn in made.ffns[number]  # type: ignore[union-attr]
        ]
        for number, task in enumerate(TASKS)
    }
    write_ffns(EXPERTS, experts, depth=DEPTH)
    state = {name: tensor.half().contiguous() for name, tensor in made.model.state_dict().items()}
    with replacing(WEIGHTS) as temporary:
        save_file({k: v for k, v in state.items() if k != "lm_head.weight"}, temporary)


def _probe_loss(made: _Together, hidden: Tensor, task: Tensor) -> Tensor:
    """Loss of the probe on trunk states [S, T, H] from the first digit on; task [S]."""
    states = nn.functional.rms_norm(hidden[:, PROMPT - ANSWER - 1 :], hidden.shape[-1:])
    logits = made.probe(states)
    return nn.functional.cross_entropy(logits.flatten(0, 1), task.repeat_interleave(states.shape[1]))


def _loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean loss of the prompts, times a weight, plus mean loss of the answers; logits [S, T, V]."""
    loss = nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    return _PROMPTS * loss[:, : PROMPT - 1].mean() + loss[:, PROMPT - 1 :].mean()


if __name__ == "__main__":
    main()
