"""`RouterRL/TokenMoE-v0`: agents are tokens, time is the depth of the network.

At each layer of a mixture-of-experts every token of a lane chooses its experts, seeing what the layer's gate
would see. An episode is one walk through the L routed layers. A token is paid

    reference loss - own loss                                       after the last layer, in nats
    - compute_weight * (experts it ran) / L                         at each layer
    - load_weight * (its part of the layer's load) / L              at each layer

so with one expert a layer the whole path costs one unit of compute. A lane's reward is the mean over its
tokens; each token's own stands in `parts["token_reward"]`.

Legend: B lanes, G sequences served together in a lane, T tokens of a sequence, M = G T agents of a lane, L
layers, N experts, k chosen, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import InputError
from experts.moe.sequences import Sequences
from experts.moe.tail import Tail
from experts.moe.token_pool import TokenPool

from .adapters import ScalarEnv, VectorizedEnv
from .core import ActionSpace, Step
from .layer_load import LoadRule, charge, keep_within
from .stream import query_rows

__all__ = ["TokenMoEConfig", "TokenMoECore", "TokenMoEEnv", "TokenMoEState", "TokenMoEVectorEnv", "open_core"]

# Layer number, gate inputs [B, M, H] and experts [B, M, k] to weights [B, M, k].
Weigh = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenMoEConfig:
    """What the environment charges for.

    Attributes:
        compute_weight: nats for an expert a layer, at least 0.
        load_weight: nats for a unit of load, at least 0.
        load: how a layer's load is counted (`envs.layer_load`).
        capacity: an expert takes at most `ceil(capacity * runs / N)` of a lane's tokens in a layer, in their
            order; a token that finds no room is passed on by the residual stream alone. None for no limit.
        k: experts a token runs at a layer.
        choose: `experts`, k ids; `some`, up to k ids, the id N being nobody.
        sequences: G.
        reference: whose loss a token is compared with: the `dense` base's, or the `oracle`'s, the matching
            expert by domain label.
    """

    compute_weight: float = 0.0
    load_weight: float = 0.0
    load: LoadRule = LoadRule()  # noqa: RUF009 (frozen)
    capacity: float | None = None
    k: int = 1
    choose: Literal["experts", "some"] = "experts"
    sequences: int = 1
    reference: Literal["dense", "oracle"] = "dense"

    def __post_init__(self) -> None:
        for name in ("compute_weight", "load_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(name, getattr(self, name), "not a weight", "use a number of at least 0")
        for name in ("k", "sequences"):
            if getattr(self, name) < 1:
                raise InputError(name, getattr(self, name), "not positive", "use 1 or more")
        if self.capacity is not None and not self.capacity > 0:
            raise InputError("capacity", self.capacity, "not positive", "use a factor such as 1.25, or None")
        if self.choose not in ("experts", "some"):
            raise InputError("choose", self.choose, "unknown", "use experts or some")
        if self.reference not in ("dense", "oracle"):
            raise InputError("reference", self.reference, "unknown", "use dense or oracle")


class TokenMoEState(NamedTuple):
    """Where B lanes stand; they walk in step.

    Attributes:
        seed: [B] int64, each lane's stream.
        drawn: [B] int64, sequences the lane has drawn from it.
        rows: [B, G] int64, the sequences being routed.
        layer: [] int64, the layer whose gate is asked; L once the walk is over.
        hidden: [B, M, H] float32, the residual stream after that layer's attention.
        x: [B, M, H] float32, what the gate sees.
    """

    seed: Tensor
    drawn: Tensor
    rows: Tensor
    layer: Tensor
    hidden: Tensor
    x: Tensor


class TokenMoECore:
    """B lanes of G sequences each, on the device of the tail.

    Args:
        tail: the frozen layers.
        sequences: what is routed.
        config: what is charged.
        lanes: B.
        seed: the first lane's stream; lane i uses seed + i.
        weigh: weights of the chosen experts; equal ones if None.

    Raises:
        InputError: fewer than one lane, or k above the number of experts.
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
        if lanes < 1:
            raise InputError("lanes", lanes, "not positive", "use 1 or more")
        if config.k > tail.experts:
            raise InputError("k", config.k, f"exceeds {tail.experts} experts", f"use 1 to {tail.experts}")
        config.load.check(tail.experts)
        self.tail = tail
        self.sequences = sequences
        self.config = config
        self.lanes = lanes
        self.weigh = weigh
        self.experts = tail.experts
        self.device = torch.device("cpu")
        self.agents = config.sequences * sequences.length
        # RMSNorm bounds its output: each entry by sqrt(H) times the gain.
        gain = max(float(norm.get_parameter("weight").abs().max()) for norm in tail.norm_out)
        bound = np.float32(gain * tail.hidden**0.5 * 1.01)
        self.observation_space: spaces.Box = spaces.Box(
            -bound, bound, (self.agents, tail.hidden), dtype=np.float32
        )
        ids = self.experts + (config.choose == "some")
        self.action_space: ActionSpace = spaces.MultiDiscrete([ids] * (self.agents * config.k))
        self._reference = torch.from_numpy(_reference(sequences, config.reference))
        self._outputs: Tensor | None = None
        self.state = self._fresh(seed)

    def reset(self, seed: int | None = None) -> Tensor:
        """Start a walk in every lane, with new streams if a seed is given; the observation."""
        if seed is not None:
            self.state = self._fresh(seed)
        else:
            self.clear(torch.ones(self.lanes, dtype=torch.bool))
        return self.observation()

    def start(self, rows: Tensor) -> Tensor:
        """Start a walk on these sequences, rows [B, G] int64; the streams stay as they are."""
        self.state = self._at_first_layer(self.state.seed, self.state.drawn, rows)
        return self.observation()

    def clear(self, finished: Tensor) -> None:
        """Start a walk on new sequences in every lane; they end together, so `finished` [B] is all True."""
        if not bool(finished.all()):
            assert not bool(finished.any()), "lanes walk in step and end together"
            return
        drawn = self.state.drawn + self.config.sequences
        self.state = self._at_first_layer(self.state.seed, drawn, self._rows(self.state.seed, drawn))

    def outputs(self) -> Tensor:
        """What every expert of this layer makes of every token, [B, M, N, H] float32; once a step."""
        if self._outputs is None:
            with torch.no_grad():
                self._outputs = self.tail.outputs(int(self.state.layer), self.state.x)
        return self._outputs

    @torch.no_grad()
    def step(self, actions: Tensor) -> Step:
        """Route every token at this layer: expert ids [B, M * k] or [B, M, k] int64."""
        config, state = self.config, self.state
        layer = int(state.layer)
        assert layer < self.tail.depth, "the walk is over; clear the lanes first"
        wanted = actions.reshape(self.lanes, self.agents, config.k)
        weights = self._weights(layer, state.x, wanted)
        experts = keep_within(wanted, self.experts, config.capacity)
        weights = weights * (experts < self.experts)
        hidden = state.hidden + self._mixed(layer, experts, weights)
        runs = (experts < self.experts).float().sum(dim=-1)
        load = charge(config.load, experts, self.experts)
        paid = -(config.compute_weight * runs + config.load_weight * load) / self.tail.depth
        parts = {"compute": runs / self.tail.depth, "load": load / self.tail.depth}
        parts["dropped"] = ((wanted < self.experts) & (experts == self.experts)).float().mean(dim=-1)
        self._outputs = None
        last = layer + 1 == self.tail.depth
        quality = torch.zeros_like(paid)
        if last:
            self.state = state._replace(layer=state.layer + 1, hidden=hidden)
            quality = self._gain(hidden)
        else:
            hidden, x = self._attend(layer + 1, hidden)
            self.state = state._replace(layer=state.layer + 1, hidden=hidden, x=x)
        paid = paid + quality
        share = torch.stack([(experts == e).float().sum(dim=(1, 2)) for e in range(self.experts)], dim=-1)
        means = {name: part.mean(dim=-1) for name, part in parts.items()}
        return Step(
            paid.mean(dim=-1),
            torch.full((self.lanes,), last),
            {
                **means,
                "quality": quality.mean(dim=-1),
                "share": share / share.sum(dim=-1, keepdim=True).clamp(min=1.0),
                "token_reward": paid,
            },
        )

    def observation(self) -> Tensor:
        """What this layer's gate sees of each token, [B, M, H] float32; the caller's to keep."""
        return self.state.x.clone()

    def state_dict(self) -> dict[str, Any]:
        """The lanes' state as tensors by name."""
        return self.state._asdict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state saved before."""
        self.state = TokenMoEState(**state)
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

    def _fresh(self, seed: int) -> TokenMoEState:
        seeds = torch.arange(self.lanes, dtype=torch.int64) + seed
        drawn = torch.zeros(self.lanes, dtype=torch.int64)
        return self._at_first_layer(seeds, drawn, self._rows(seeds, drawn))


def open_core(
    pool: TokenPool | str = "tiny", lanes: int = 1, *, part: str = "train", **settings: Any
) -> TokenMoECore:
    """Build a core from what a user has at hand.

    Args:
        pool: a pool, or `tiny`, the one that is part of the package.
        lanes: B.
        part: train, validation or test.
        settings: fields of `TokenMoEConfig`.

    Raises:
        InputError: no such pool or part.
    """
    if isinstance(pool, str):
        if pool != "tiny":
            raise InputError("pool", pool, "unknown", 'use "tiny", or give a TokenPool')
        from experts.moe.tiny import tiny_pool

        pool = tiny_pool()
    if part not in pool.parts:
        raise InputError("part", part, "unknown", f"use {', '.join(pool.parts)}")
    return TokenMoECore(pool.tail, pool.parts[part], TokenMoEConfig(**settings), lanes)


class TokenMoEEnv(ScalarEnv):
    """One lane, an ordinary Gymnasium environment; arguments as for `open_core`."""

    def __init__(self, pool: TokenPool | str = "tiny", **settings: Any) -> None:
        super().__init__(open_core(pool, 1, **settings))


class TokenMoEVectorEnv(VectorizedEnv):
    """B lanes at once, a Gymnasium vector environment; arguments as for `open_core`."""

    def __init__(self, num_envs: int = 1, pool: TokenPool | str = "tiny", **settings: Any) -> None:
        super().__init__(open_core(pool, num_envs, **settings))


def _reference(sequences: Sequences, kind: str) -> np.ndarray:
    """Loss [S, T] float32 that a token is compared with."""
    if kind == "dense":
        return sequences.dense_loss
    return np.take_along_axis(sequences.path_loss, sequences.domain[:, None], axis=1)[:, 0]
