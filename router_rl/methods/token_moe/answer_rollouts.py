"""Generations with their routes: what a router read and chose while it earned a reward, to be replayed.

Legend: R generations, L layers, T = P + A - 1 tokens that are routed, H hidden size, N experts, k experts per
token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from envs.layer_load import LoadRule, token_penalties
from envs.reward import running, utility
from experts.moe.decoding import Draw, generate
from experts.moe.padding import Prompts, routed_tokens
from experts.moe.token_pool import TokenPool

from ...problems.token_moe.layer_routers import LayerRouters
from ...problems.token_moe.token_answers import prompts_of
from ...routing import LinearScorer

__all__ = ["Generations", "Routed", "roll_out", "routed", "softened"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Routed:
    """R answers with what the routers read and chose for them.

    Attributes:
        x: [L, R, T, H] float32, the gates' inputs.
        actions: [L, R, T, k], what the rule sampled, or selected.
        experts: [L, R, T, k] int64, the experts that ran; the id N where a token belongs to no answer.
        tokens: [R, A] int64, the answers.
        real: [R, T] bool, the tokens that belong to a prompt or its answer; None: all.
    """

    x: Tensor
    actions: Tensor
    experts: Tensor
    tokens: Tensor
    real: Tensor | None = None

    @property
    def tokens_run(self) -> int:
        """Number of tokens of all generations that `mean` counts."""
        return self.x[0, ..., 0].numel() if self.real is None else int(self.real.sum())

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean [] of values [R, T] over the tokens of all generations."""
        return values.mean() if self.real is None else values[self.real].mean()


@dataclass(frozen=True, eq=False, kw_only=True)
class Generations:
    """R generations and their rewards.

    Attributes:
        routed: the answers and their routes.
        right: [R] float32, what the verifier gives: 1 for a right answer.
        reward: [R] float32: right, minus the weighted compute and load.
    """

    routed: Routed
    right: Tensor
    reward: Tensor


@torch.no_grad()
def routed(
    pool: TokenPool,
    routers: LayerRouters,
    prompts: Prompts,
    draw: Draw,
    generator: torch.Generator | None,
    *,
    together: bool = False,
    among: Tensor | None = None,
    copies: int = 1,
) -> Routed:
    """Generate answers and keep their routes.

    Args:
        pool: of problems.
        routers: the policy.
        prompts: of R generations.
        draw: selects the next token.
        generator: of the routes, which the rule samples; None: greedy routes.
        together: whether all choices of a generation are drawn with the same noise, so that they change
            together; each choice alone has the same probabilities.
        among: [M] bool, with several processes: which of the M generations of all of them are these R. The
            noise of all is drawn; only for `together`.
        copies: how many neighbours have the same prompt each.
    """
    assert among is None or together
    problems = pool.problems
    assert problems is not None
    depth = pool.tail.depth
    inputs, actions, chosen = ([[] for _ in range(depth)] for _ in range(3))
    shared: list[Tensor] = []

    def noise(z: Tensor, generator: torch.Generator) -> Tensor:
        if not together:
            return routers.rule.draw_noise(tuple(z.shape), generator)
        if not shared:
            every = len(z) if among is None else len(among)
            drawn = routers.rule.draw_noise((every, 1, z.shape[-1]), generator)
            shared.append(drawn if among is None else drawn[among])
        return shared[0].expand(z.shape)

    def choose(layer: int, x: Tensor) -> tuple[Tensor, Tensor]:
        z, rule = routers.logits(layer, x), routers.rules[layer]
        if generator is None:
            choice = rule.select(z)
            action = choice.experts
        else:
            action = rule.sample(z, noise(z, generator))
            choice = rule.choice(z, action)
        inputs[layer].append(x)
        actions[layer].append(action)
        chosen[layer].append(choice.experts)
        return choice.experts, choice.weights

    tokens = generate(pool.base, pool.tail, prompts, problems.answer, choose, draw, problems.end, copies)
    x, action, experts = (
        torch.stack([torch.cat(each, dim=1) for each in layers]) for layers in (inputs, actions, chosen)
    )
    real = routed_tokens(prompts, tokens, problems.end, x.shape[2])
    if real is not None:
        experts = torch.where(real.unsqueeze(-1), experts, pool.tail.experts)
    return Routed(x=x, actions=action, experts=experts, tokens=tokens, real=real)


def roll_out(
    pool: TokenPool,
    routers: LayerRouters,
    rows: Tensor,
    draw: Draw,
    generator: torch.Generator,
    weights: Mapping[str, float],
    *,
    together: bool = False,
    among: Tensor | None = None,
) -> Generations:
    """Generate an answer for each training row with sampled routes, and reward it.

    Args:
        pool: of problems.
        routers: the policy; its rule samples the routes.
        rows: [R] int64, training sequences; a row may be there several times, cheaply if they are neighbours.
        draw: selects the next token.
        generator: of the routes.
        weights: reward per unit of `compute`, the experts per token and layer, and of `load`, the penalty
            for the load of all tokens of the call (`envs.layer_load`, by share), a mean over tokens and
            layers.
        together, among: see `routed`.
    """
    sequences, total = pool.parts["train"], pool.tail.experts
    assert pool.problems is not None
    prompts = prompts_of(pool, sequences, rows)
    copies = math.gcd(*rows.unique_consecutive(return_counts=True)[1].tolist())
    made = routed(pool, routers, prompts, draw, generator, together=together, among=among, copies=copies)
    right = pool.problems.verify(prompts.tokens, made.tokens)
    depth, size = made.experts.shape[0], made.experts.shape[:-1]
    lane = made.experts.reshape(depth, -1, made.experts.shape[-1])  # a layer's tokens are one lane
    real = torch.ones(size[1:]) if made.real is None else made.real.float()
    own = real.sum(dim=1) * depth  # token-layers of a generation
    load = token_penalties(LoadRule(), lane, total).reshape(size) * real.mean()  # penalties are per place
    parts = {
        "quality": right,
        "compute": running(made.experts, total).sum(dim=(0, 2, 3)) / own,
        "load": load.sum(dim=(0, 2)) / own,
    }
    return Generations(routed=made, right=right, reward=utility(parts, dict(weights)))


def softened(routers: LayerRouters, factor: float) -> LayerRouters:
    """Return routers with divided logits: the same greedy choices, more exploration.

    Args:
        routers: not changed.
        factor: at least 1.
    """
    made = routers.copy()
    with torch.no_grad():
        for scorer in made.scorers:
            linear = cast(LinearScorer, scorer)
            linear.weight.div_(factor)
            linear.bias.div_(factor)
    return made
