"""Route the tokens of a prompt and of its generated answer: a step is one token at one layer.

## Description
A mixture of frozen experts reads a prompt and generates an answer, token by token. At each routed layer the
agent chooses the token's experts, from the same input as the layer's gate. After the last layer comes the
next token: the prompt's, or the most likely one (ties go to the lowest id). When the answer is complete, a
verifier scores it. These are the episodes that `grpo` learns from (`RouterRL/TokenMoE-v0` scores the loss of
given text instead).

Legend: B lanes, P tokens of a prompt, A tokens of an answer, T = P + A - 1 tokens that are run, L layers,
N experts, k experts a token, H hidden size, V vocabulary size.

## Action space
`MultiDiscrete([N] * k)`: k expert ids.

## Observation space
`Box((H,), float32)`: the input of the layer's gate for the token, after RMSNorm. Its bound follows from the
norm's gain.

## Rewards
0 until the answer is complete, then

    quality - compute_weight * compute - load_weight * load

`info` holds these parts: `quality`, the verifier's score of the answer, 0 or 1 for an exact match; `compute`,
the experts that the episode ran, per token and layer; `load`, the squared coefficient of variation of the
experts' shares of the episode's tokens, a mean over layers. They are 0 before the end. `share` [N] is how
this step's decision divides among the experts.

## Starting state
The first token of a prompt drawn uniformly from `part`, at the first routed layer. `reset(seed=s)` restarts
the random stream; `reset()` draws the next prompt.

## Episode end
The episode terminates when the last token of the answer is chosen: the A-th one, or the pool's end token.
That token is not run. An episode has T L steps. It is never truncated.

## Arguments
- `pool`: a `TokenPool` with problems, or `"answers"` (default), a small pool that is part of the package.
- `part`: prompts to draw from: `"train"` (default), `"validation"` or `"test"`.
- the fields of `TokenGenerationConfig`: `compute_weight`, `load_weight`, `k`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import InputError
from experts.io.checked_options import CheckedOptions
from experts.io.value_range import Count, NonNegative
from experts.moe.token_pool import Problems, TokenPool

from .adapters import environment_classes
from .arguments import config_from
from .core import ActionSpace, BatchedCore, Step
from .layer_load import LoadRule, token_penalties
from .reward import running, shares, utility
from .stream import query_rows
from .token_weights import Weigh, equal_weights

__all__ = [
    "TokenGenerationConfig",
    "TokenGenerationCore",
    "TokenGenerationEnv",
    "TokenGenerationState",
    "TokenGenerationVectorEnv",
    "build_token_generation",
]


@dataclass(frozen=True, kw_only=True)
class TokenGenerationConfig(CheckedOptions):
    """The reward and action of the environment of generated answers.

    Attributes:
        compute_weight: reward per expert and token-layer, at least 0.
        load_weight: reward per unit of load, at least 0.
        k: experts that a token runs at a layer.

    Raises:
        InputError: a value is out of range.
    """

    compute_weight: NonNegative = 0.0
    load_weight: NonNegative = 0.0
    k: Count = 1


class TokenGenerationState(NamedTuple):
    """The state of B lanes; all are at the same layer, each at a token of its own.

    Attributes:
        seed: [B] int64, the random stream of each lane.
        drawn: [B] int64, prompts that the lane drew from its stream before this one.
        row: [B] int64, the current prompt's sequence.
        tokens: [B, W] int64, the prompt and the answer so far.
        place: [B] int64, the token that is being run.
        layer: [] int64, the current layer.
        streams: [B, L, W, H] float32, the residual stream before each layer, of the tokens so far.
        hidden: [B, H] float32, the residual stream after the layer's attention.
        x: [B, H] float32, the input of the layer's gate.
        experts: [B, L, W, k] int64, the experts that ran so far.
    """

    seed: Tensor
    drawn: Tensor
    row: Tensor
    tokens: Tensor
    place: Tensor
    layer: Tensor
    streams: Tensor
    hidden: Tensor
    x: Tensor
    experts: Tensor


class TokenGenerationCore(BatchedCore[TokenGenerationState]):
    """B lanes of one prompt each, on the CPU.

    A step runs the attention of all earlier tokens again: the plain form of what `grpo` does with kept keys
    and values, for learners of other libraries.

    Args:
        pool: frozen experts, and problems.
        part: its part.
        config: the reward and action.
        lanes: B.
        seed: lane i uses the random stream `seed + i`.
        weigh: weights of the experts that run; equal weights if None.

    Raises:
        InputError: the pool has no problems, fewer than one lane, or k above the number of experts.
    """

    def __init__(
        self,
        pool: TokenPool,
        part: str,
        config: TokenGenerationConfig,
        lanes: int,
        seed: int = 0,
        weigh: Weigh | None = None,
    ) -> None:
        super().__init__(pool.tail.experts, torch.device("cpu"), lanes)
        if pool.problems is None:
            fix = 'use "answers", or a pool of prompts'
            raise InputError("pool", pool.name, "has no problems with a verifier", fix)
        if config.k > pool.tail.experts:
            problem = f"exceeds {pool.tail.experts} experts"
            raise InputError("k", config.k, problem, f"use 1 to {pool.tail.experts}")
        self.pool = pool
        self.problems: Problems = pool.problems
        self.sequences = pool.parts[part]
        self.config = config
        self.weigh = weigh
        whole = np.full(len(self.sequences), self.sequences.tokens.shape[1] - self.problems.answer)
        lengths = whole if self.sequences.prompt is None else self.sequences.prompt
        self.lengths = torch.from_numpy(lengths.astype(np.int64))
        self.width = int(self.lengths.max()) + self.problems.answer
        tail = pool.tail
        bound = np.float32(tail.largest_input * 1.01)
        self.observation_space: spaces.Box = spaces.Box(-bound, bound, (tail.hidden,), dtype=np.float32)
        self.action_space: ActionSpace = spaces.MultiDiscrete([self.experts] * config.k)
        self.state = self._initial_state(self._lane_seeds(seed))

    def start(self, rows: Tensor) -> Tensor:
        """Start an episode on sequences rows [B] int64; the random streams stay as they are."""
        self.state = self._at_first_token(self.state.seed, self.state.drawn, rows)
        return self.observation()

    def clear(self, finished: Tensor) -> None:
        """Start an episode in the lanes that finished, [B] bool: at the first layer, where the others are."""
        if not bool(finished.any()):
            return
        assert bool(finished.all()) or int(self.state.layer) == 0, "lanes end at the first layer of a token"
        drawn = self.state.drawn + finished
        fresh = self._at_first_token(self.state.seed, drawn, self._rows(self.state.seed, drawn))
        merged = {
            name: torch.where(finished.reshape(-1, *[1] * (new.dim() - 1)), new, getattr(self.state, name))
            for name, new in fresh._asdict().items()
            if name != "layer"
        }
        self.state = TokenGenerationState(**merged, layer=fresh.layer)

    @torch.no_grad()
    def step(self, actions: Tensor) -> Step:
        """Route every lane's token at this layer: expert ids [B, k] int64, or [B] for one expert."""
        state, tail, lanes = self.state, self.pool.tail, torch.arange(self.lanes)
        layer = int(state.layer)
        chosen = actions.reshape(self.lanes, self.config.k)
        weigh = self.weigh or equal_weights
        hidden = state.hidden + tail.mix(layer, state.x, chosen, weigh(layer, state.x, chosen))
        experts = state.experts.clone()
        experts[lanes, layer, state.place] = chosen
        done = torch.zeros(self.lanes, dtype=torch.bool)
        parts = {name: torch.zeros(self.lanes) for name in ("quality", "compute", "load")}
        if layer + 1 < tail.depth:
            streams = state.streams.clone()
            streams[lanes, layer + 1, state.place] = hidden
            following = state._replace(layer=state.layer + 1, streams=streams, experts=experts)
            self.state = self._attended(following)
        else:
            tokens, done = self._with_next_token(hidden)
            following = state._replace(tokens=tokens, place=state.place + 1, experts=experts)
            if bool(done.any()):
                parts = self._scored(following, done)
            following = following._replace(place=torch.where(done, state.place, following.place))
            moved = self._attended(self._entered(following))
            kept = {  # a lane that ended keeps its last observation
                name: torch.where(done.unsqueeze(-1), getattr(state, name), getattr(moved, name))
                for name in ("hidden", "x")
            }
            self.state = moved._replace(**kept)
        weights = {"compute": self.config.compute_weight, "load": self.config.load_weight}
        share = shares(chosen, self.experts)
        return Step(utility(parts, weights), done, {**parts, "share": share})

    def observation(self) -> Tensor:
        """The input of this layer's gate for each lane's token, [B, H] float32; a copy."""
        return self.state.x.clone()

    def _with_next_token(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, W] with the answer's next one, and whether the answer is complete, [B] bool."""
        state = self.state
        lengths = self.lengths[state.row]
        following = state.place + 1
        drawn = self.pool.tail.logits(hidden).argmax(dim=-1)
        tokens = state.tokens.clone()
        answers = following >= lengths
        lanes = torch.arange(self.lanes)
        tokens[lanes[answers], following[answers]] = drawn[answers]
        done = following + 1 == lengths + self.problems.answer
        if self.problems.end is not None:
            done |= answers & (drawn == self.problems.end)
        return tokens, done

    def _scored(self, state: TokenGenerationState, done: Tensor) -> dict[str, Tensor]:
        """The parts of the reward; 0 where the answer is not complete."""
        parts = {name: torch.zeros(self.lanes) for name in ("quality", "compute", "load")}
        count = self.problems.answer
        fill = self.problems.pad if self.problems.end is None else self.problems.end
        for lane in done.nonzero().flatten().tolist():
            length, run = int(self.lengths[state.row[lane]]), int(state.place[lane])
            answer = torch.full((1, count), fill)
            answer[0, : run + 1 - length] = state.tokens[lane, length : run + 1]
            parts["quality"][lane] = self.problems.verify(state.tokens[lane : lane + 1, :length], answer)[0]
            experts = state.experts[lane, :, :run]  # [L, T, k]
            parts["compute"][lane] = running(experts, self.experts).sum(dim=-1).mean()
            parts["load"][lane] = token_penalties(LoadRule(), experts, self.experts).mean()
        return parts

    def _entered(self, state: TokenGenerationState) -> TokenGenerationState:
        """The state at the first layer of each lane's token."""
        width, lanes = int(state.place.max()) + 1, torch.arange(self.lanes)
        trunk = self.pool.base.trunk(state.tokens[:, :width])
        streams = state.streams.clone()
        streams[lanes, 0, state.place] = trunk[lanes, state.place]
        return state._replace(layer=torch.tensor(0), streams=streams)

    def _attended(self, state: TokenGenerationState) -> TokenGenerationState:
        """The state after the attention of its layer; later tokens than a lane's own are not seen."""
        layer, width, lanes = int(state.layer), int(state.place.max()) + 1, torch.arange(self.lanes)
        hidden, x = self.pool.tail.attend(layer, state.streams[:, layer, :width])
        return state._replace(hidden=hidden[lanes, state.place], x=x[lanes, state.place])

    def _rows(self, seed: Tensor, drawn: Tensor) -> Tensor:
        return query_rows(seed, drawn, len(self.sequences))

    @torch.no_grad()
    def _at_first_token(self, seed: Tensor, drawn: Tensor, rows: Tensor) -> TokenGenerationState:
        tail, lanes = self.pool.tail, len(rows)
        tokens = torch.full((lanes, self.width), self.problems.pad)
        for lane, row in enumerate(rows.tolist()):
            length = int(self.lengths[row])
            tokens[lane, :length] = torch.from_numpy(self.sequences.tokens[row, :length].astype(np.int64))
        empty = torch.zeros(lanes, tail.hidden)
        state = TokenGenerationState(
            seed=seed,
            drawn=drawn,
            row=rows,
            tokens=tokens,
            place=torch.zeros(lanes, dtype=torch.int64),
            layer=torch.tensor(0),
            streams=torch.zeros(lanes, tail.depth, self.width, tail.hidden),
            hidden=empty,
            x=empty,
            experts=torch.full((lanes, tail.depth, self.width, self.config.k), self.experts),
        )
        return self._attended(self._entered(state))

    def _initial_state(self, seeds: Tensor) -> TokenGenerationState:
        drawn = torch.zeros_like(seeds)
        return self._at_first_token(seeds, drawn, self._rows(seeds, drawn))


def build_token_generation(
    pool: TokenPool | str = "answers", lanes: int = 1, *, part: str = "train", **options: Any
) -> TokenGenerationCore:
    """Build a core from a pool; the arguments are those of the environment.

    Args:
        pool: a pool with problems, or `answers`, the one that is part of the package.
        lanes: B.
        part: `train`, `validation` or `test`.
        options: fields of `TokenGenerationConfig`.

    Raises:
        InputError: an argument is unknown or out of range, or there is no such pool or part.
    """
    config = config_from(TokenGenerationConfig, build_token_generation, options)
    if isinstance(pool, str):
        if pool != "answers":
            raise InputError("pool", pool, "unknown", 'use "answers", or give a TokenPool')
        from experts.moe.answer_pool import answer_pool

        pool = answer_pool()
    if part not in pool.parts:
        raise InputError("part", part, "unknown", f"use {', '.join(pool.parts)}")
    return TokenGenerationCore(pool, part, config, lanes)


TokenGenerationEnv, TokenGenerationVectorEnv = environment_classes(
    "TokenGeneration", build_token_generation, __doc__
)
