"""Route the tokens of a mixture-of-experts language model: a step is one layer, an agent is one token.

## Description
At each routed layer every token of a lane chooses its experts, from the same input as the layer's gate. The
rest of the network is frozen. An episode is one forward pass through the L routed layers, so an early choice
changes what later layers see. The loss of the tokens is known after the last layer.

Legend: B lanes, G sequences of a lane, T tokens of a sequence, M = G T tokens of a lane, L layers, N experts,
k experts a token, H hidden size.

## Action space
`MultiDiscrete([N] * (M * k))`: k expert ids for each token. With `choose="some"` it is
`MultiDiscrete([N + 1] * (M * k))`, where the id N stands for no expert; a token without an expert keeps its
residual stream.

## Observation space
`Box((M, H), float32)`: the input of the layer's gate for each token, after RMSNorm. Its bound follows from
the norm's gain.

## Rewards
Each token receives

    reference loss - own loss                                  after the last layer, in nats
    - compute_weight * (experts that it ran) / L               at each layer
    - load_weight * (its penalty for the layer's load) / L     at each layer

so with one expert a layer a full episode costs one unit of compute. The reward of a lane is the mean over its
tokens; `info["token_reward"]` [M] has the reward of each token. `info` also holds the means `quality`
(reference minus own loss; 0 before the last layer), `compute`, `load` and `dropped` (the fraction of a
layer's choices above capacity), and `share` [N].

## Starting state
G sequences drawn uniformly from `part`, at the first routed layer. `reset(seed=s)` restarts the random
stream; `reset()` draws the next sequences.

## Episode end
The episode terminates after the L routed layers, in all lanes at once. It is never truncated.

## Arguments
- `pool`: a `TokenPool`, or `"tiny"` (default), a small pool that is part of the package.
- `part`: sequences to draw from: `"train"` (default), `"validation"` or `"test"`.
- the fields of `TokenMoEConfig`: `compute_weight`, `load_weight`, `load`, `capacity`, `k`, `choose`,
  `sequences`, `reference`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, NonNegative, Positive
from experts.moe.sequences import Sequences
from experts.moe.tail import Tail
from experts.moe.token_pool import TokenPool

from .adapters import environment_classes
from .arguments import config_from
from .core import ActionSpace, BatchedCore, Step
from .layer_load import LoadRule, apply_capacity, token_penalties
from .reward import utility
from .stream import query_rows
from .token_weights import Weigh

__all__ = [
    "TokenMoEConfig",
    "TokenMoECore",
    "TokenMoEEnv",
    "TokenMoEState",
    "TokenMoEVectorEnv",
    "build_token_moe",
]


@dataclass(frozen=True, kw_only=True)
class TokenMoEConfig(CheckedOptions):
    """The reward and action of the token-level environment.

    Attributes:
        compute_weight: nats per expert and layer, at least 0.
        load_weight: nats per unit of load, at least 0.
        load: the definition of a layer's load (`envs.layer_load`).
        capacity: capacity factor: an expert takes at most `ceil(capacity * runs / N)` of a lane's tokens in a
            layer, in their order; a dropped token keeps its residual stream. None for no bound.
        k: experts that a token runs at a layer.
        choose: `experts`, k ids; `some`, up to k ids, the id N standing for no expert.
        sequences: G.
        reference: the loss that a token is compared with: `dense`, the base model's, or an existing
            mixture's with its own gates; `oracle`, that of the expert of the token's domain label.

    Raises:
        InputError: a value is out of range.
    """

    compute_weight: NonNegative = 0.0
    load_weight: NonNegative = 0.0
    load: LoadRule = LoadRule()  # noqa: RUF009 (frozen)
    capacity: Positive | None = None
    k: Count = 1
    choose: Literal["experts", "some"] = "experts"
    sequences: Count = 1
    reference: Literal["dense", "oracle"] = "dense"


class TokenMoEState(NamedTuple):
    """The state of B lanes; all are at the same layer.

    Attributes:
        seed: [B] int64, the random stream of each lane.
        drawn: [B] int64, sequences that the lane drew from its stream before these.
        rows: [B, G] int64, the current sequences.
        layer: [] int64, the current layer; L after the last one.
        hidden: [B, M, H] float32, the residual stream after that layer's attention.
        x: [B, M, H] float32, the input of the layer's gate.
    """

    seed: Tensor
    drawn: Tensor
    rows: Tensor
    layer: Tensor
    hidden: Tensor
    x: Tensor


class TokenMoECore(BatchedCore[TokenMoEState]):
    """B lanes of G sequences each, on the CPU.

    Args:
        tail: the frozen layers.
        sequences: the data.
        config: the reward and action.
        lanes: B.
        seed: lane i uses the random stream `seed + i`.
        weigh: weights of the experts that run; equal weights if None.

    Raises:
        InputError: fewer than one lane, k above the number of experts, or a placement that does not
            match them.
    """

    def __init__(
        self,
        tail: Tail,
        sequences: Sequences,
        config: TokenMoEConfig,
        lanes: int,
        seed: int = 0,
        weigh: Weigh | None = None,
    ) -> None:
        super().__init__(tail.experts, torch.device("cpu"), lanes)
        if config.k > tail.experts:
            raise InputError("k", config.k, f"exceeds {tail.experts} experts", f"use 1 to {tail.experts}")
        config.load.check(tail.experts)
        self.tail = tail
        self.sequences = sequences
        self.config = config
        self.weigh = weigh
        self.agents = config.sequences * sequences.length
        bound = np.float32(tail.largest_input * 1.01)
        self.observation_space: spaces.Box = spaces.Box(
            -bound, bound, (self.agents, tail.hidden), dtype=np.float32
        )
        ids = self.experts + (config.choose == "some")
        self.action_space: ActionSpace = spaces.MultiDiscrete([ids] * (self.agents * config.k))
        self._reference = torch.from_numpy(_reference(sequences, config.reference))
        self._outputs: Tensor | None = None
        self.state = self._initial_state(self._lane_seeds(seed))

    def start(self, rows: Tensor) -> Tensor:
        """Start an episode on sequences rows [B, G] int64; the random streams stay as they are."""
        self.state = self._at_first_layer(self.state.seed, self.state.drawn, rows)
        return self.observation()

    def clear(self, finished: Tensor) -> None:
        """Start an episode in every lane; lanes end together, so `finished` [B] is all True or all False."""
        if not bool(finished.all()):
            assert not bool(finished.any()), "all lanes end together"
            return
        drawn = self.state.drawn + self.config.sequences
        self.state = self._at_first_layer(self.state.seed, drawn, self._rows(self.state.seed, drawn))

    def outputs(self) -> Tensor:
        """Output of every expert of this layer for every token, [B, M, N, H] float32; cached in a step."""
        if self._outputs is None:
            with torch.no_grad():
                self._outputs = self.tail.outputs(int(self.state.layer), self.state.x)
        return self._outputs

    @torch.no_grad()
    def step(self, actions: Tensor) -> Step:
        """Route every token at this layer: expert ids [B, M * k] or [B, M, k] int64."""
        config, state = self.config, self.state
        layer = int(state.layer)
        assert layer < self.tail.depth, "the episode is over; clear the lanes first"
        wanted = actions.reshape(self.lanes, self.agents, config.k)
        weights = self._weights(layer, state.x, wanted)
        experts = apply_capacity(wanted, self.experts, config.capacity)
        weights = weights * (experts < self.experts)
        hidden = state.hidden + self._mixed(layer, experts, weights)
        runs = (experts < self.experts).float().sum(dim=-1)
        load = token_penalties(config.load, experts, self.experts)
        weights_of = {"compute": config.compute_weight, "load": config.load_weight}
        costs = {"quality": torch.zeros_like(runs), "compute": runs, "load": load}
        reward = utility(costs, weights_of) / self.tail.depth
        parts = {"compute": runs / self.tail.depth, "load": load / self.tail.depth}
        parts["dropped"] = ((wanted < self.experts) & (experts == self.experts)).float().mean(dim=-1)
        self._outputs = None
        last = layer + 1 == self.tail.depth
        quality = torch.zeros_like(reward)
        if last:
            self.state = state._replace(layer=state.layer + 1, hidden=hidden)
            quality = self._gain(hidden)
        else:
            hidden, x = self._attend(layer + 1, hidden)
            self.state = state._replace(layer=state.layer + 1, hidden=hidden, x=x)
        reward = reward + quality
        share = torch.stack([(experts == e).float().sum(dim=(1, 2)) for e in range(self.experts)], dim=-1)
        means = {name: part.mean(dim=-1) for name, part in parts.items()}
        return Step(
            reward.mean(dim=-1),
            torch.full((self.lanes,), last),
            {
                **means,
                "quality": quality.mean(dim=-1),
                "share": share / share.sum(dim=-1, keepdim=True).clamp(min=1.0),
                "token_reward": reward,
            },
        )

    def observation(self) -> Tensor:
        """The input of this layer's gate for each token, [B, M, H] float32; a copy."""
        return self.state.x.clone()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        super().load_state_dict(state)
        self._outputs = None

    def _weights(self, layer: int, x: Tensor, experts: Tensor) -> Tensor:
        if self.weigh is not None:
            return self.weigh(layer, x, experts)
        works = (experts < self.experts).float()
        return works / works.sum(dim=-1, keepdim=True).clamp(min=1.0)

    def _mixed(self, layer: int, experts: Tensor, weights: Tensor) -> Tensor:
        if self._outputs is None:
            return self.tail.mix(layer, self.state.x, experts, weights)
        some = experts.clamp(max=self.experts - 1).unsqueeze(-1).expand(-1, -1, -1, self.tail.hidden)
        return (self._outputs.gather(2, some) * weights.unsqueeze(-1)).sum(dim=2)

    def _gain(self, hidden: Tensor) -> Tensor:
        rows = self.state.rows.flatten()
        loss = self.tail.loss(self._by_sequence(hidden), self.sequences.targets(rows))
        return (self._reference[rows] - loss).reshape(self.lanes, self.agents)

    def _attend(self, layer: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        hidden, x = self.tail.attend(layer, self._by_sequence(hidden))
        shape = (self.lanes, self.agents, -1)
        return hidden.reshape(shape), x.reshape(shape)

    def _by_sequence(self, tensor: Tensor) -> Tensor:
        return tensor.reshape(self.lanes * self.config.sequences, self.sequences.length, -1)

    def _rows(self, seed: Tensor, drawn: Tensor) -> Tensor:
        draws = [query_rows(seed, drawn + g, len(self.sequences)) for g in range(self.config.sequences)]
        return torch.stack(draws, dim=1)

    @torch.no_grad()
    def _at_first_layer(self, seed: Tensor, drawn: Tensor, rows: Tensor) -> TokenMoEState:
        self._outputs = None
        hidden, x = self._attend(0, self.sequences.states(rows.flatten()))
        return TokenMoEState(seed, drawn, rows, torch.tensor(0), hidden, x)

    def _initial_state(self, seeds: Tensor) -> TokenMoEState:
        drawn = torch.zeros_like(seeds)
        return self._at_first_layer(seeds, drawn, self._rows(seeds, drawn))


def build_token_moe(
    pool: TokenPool | str = "tiny", lanes: int = 1, *, part: str = "train", **options: Any
) -> TokenMoECore:
    """Build a core from a pool; the arguments are those of the environment.

    Args:
        pool: a pool, or `tiny`, the one that is part of the package.
        lanes: B.
        part: `train`, `validation` or `test`.
        options: fields of `TokenMoEConfig`.

    Raises:
        InputError: an argument is unknown or out of range, or there is no such pool or part.
    """
    config = config_from(TokenMoEConfig, build_token_moe, options)
    if isinstance(pool, str):
        if pool != "tiny":
            raise InputError("pool", pool, "unknown", 'use "tiny", or give a TokenPool')
        from experts.moe.tiny import tiny_pool

        pool = tiny_pool()
    if part not in pool.parts:
        raise InputError("part", part, "unknown", f"use {', '.join(pool.parts)}")
    return TokenMoECore(pool.tail, pool.parts[part], config, lanes)


TokenMoEEnv, TokenMoEVectorEnv = environment_classes("TokenMoE", build_token_moe, __doc__)


def _reference(sequences: Sequences, reference: str) -> np.ndarray:
    """The loss that a token is compared with, [S, T] float32."""
    if reference == "dense":
        return sequences.dense_loss
    return np.take_along_axis(sequences.path_loss, sequences.domain[:, None], axis=1)[:, 0]
