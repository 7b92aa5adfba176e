"""Answer the turns of a conversation with models that cache prompts: a switch pays for the context again.

## Description
A conversation has several turns. The prompt of each turn is the whole conversation so far, so most of it was
in the prompt before. Each expert keeps the prompt that it answered last in its own cache for some time. An
expert that is used again within this time pays the cached price for the tokens that it has, and the full
price for the others. An expert that is new to the conversation pays the full price for the whole context.
The topics of the turns persist, and experts differ in quality by topic.

The outcomes come from an `OutcomeTable`; its groups are the topics, and each turn is one of its rows. The
lengths, tokens and gaps come from a trace or from a generator.

Legend: B lanes, N experts, D features.

## Action space
`Discrete(N)`: the expert that answers the turn. To stay is to choose the expert of the turn before.

## Observation space
`Box((D + 5 N + 4,), float32)`:

| part | size | values |
|---|---|---|
| features of the query | D | |
| cached | N | share of the prompt that is in each expert's cache |
| idle | N | time since the expert was used, over the life of its cache; 1 if its cache is lost |
| last | N | 1 for the expert of the turn before |
| cost | N | compute of answering with each expert now; for an answer of mean length |
| warm cost | N | the same if the expert had answered the turn before |
| context | 1 | base-2 logarithm of the tokens of the prompt |
| reused | 1 | share of the prompt that the prompt before had too |
| turn | 1 | turns before this one |
| switches | 1 | times that the expert changed in this conversation |

## Rewards
    quality - compute_weight * compute

`quality` is the expert's quality on the query. `compute` is the cost of the turn (input that is not cached,
cached input and output, each at its price) over the mean cost of a turn of the most expensive expert if it is
used throughout. `info` holds these, `missed_tokens` (input that was not cached), `switched` (1 if the expert
changed) and `share` [N], 1 for the expert that answers.

## Starting state
A conversation is drawn uniformly; no expert has a cache of it. The first topic is drawn uniformly.
`reset(seed=s)` restarts the random stream; `reset()` continues it.

## Episode end
The episode terminates after the last turn of the conversation, which is not announced. It is never truncated.

## Arguments
- `table`: an `OutcomeTable` with features, a Parquet path or the name of a source. Default `"digits"`.
- `split`: rows to draw from: `"train"` (default), `"validation"`, `"test"`, or None for all.
- `sessions`: `"generated"` (default: agent-like conversations), the path of a Parquet trace with `hash_ids`,
  or `Conversations`.
- `device`: where the tensors live. Default `"cpu"`.
- the other fields of `SessionConfig`: `compute_weight`, `prices`, `cached_share`, `write_share`,
  `output_share`, `expiry_s`, `persistence`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from experts import OutcomeTable

from .adapters import environment_classes
from .arguments import config_from
from .conversations import Conversations
from .core import ActionSpace, BatchedCore, Step, float_box, replace_lanes
from .outcomes import open_rows
from .reward import shares, utility
from .session_config import SessionConfig
from .session_table import SessionTable
from .stream import query_rows

__all__ = [
    "SessionConfig",
    "SessionCore",
    "SessionEnv",
    "SessionState",
    "SessionTable",
    "SessionVectorEnv",
    "build_session",
    "observe",
    "transition",
]

_SESSIONS = 1 << 42  # offset of a lane's random stream of conversations from that of its queries
_GENERATED = 1024  # conversations
_NEVER = 1e9  # seconds since an expert was used, before it is


class SessionState(NamedTuple):
    """The state of B lanes.

    Attributes:
        seed: [B] int64, the random stream of each lane.
        drawn: [B] int64, turns that the lane drew before this one.
        topic: [B] int64, of the current turn.
        row: [B] int64, the current query.
        place: [B] int64, the current turn among those of all conversations.
        cached: [B, N] float32, tokens of the prompt that are in each expert's cache.
        idle: [B, N] float32, seconds since the expert was used.
        last: [B] int64, the expert of the turn before; N at a first turn.
        turn: [B] float32, turns before this one.
        switches: [B] float32, times that the expert changed.
    """

    seed: Tensor
    drawn: Tensor
    topic: Tensor
    row: Tensor
    place: Tensor
    cached: Tensor
    idle: Tensor
    last: Tensor
    turn: Tensor
    switches: Tensor


def transition(
    table: SessionTable, config: SessionConfig, state: SessionState, actions: Tensor
) -> tuple[SessionState, Step]:
    """Answer one turn in every lane; pure.

    Args:
        table: the data.
        config: the options.
        state: the lanes.
        actions: [B] int64, the expert that answers.

    Returns:
        the state at the next turn (where there is none, the conversation's last turn), and the step.
    """
    experts, chosen = table.outcomes.experts, actions.unsqueeze(-1)
    share = shares(chosen, experts)
    answers = share > 0
    context = table.context[state.place].unsqueeze(-1)
    cost = table.costs(state.place, state.cached, table.output[state.place].unsqueeze(-1))
    switched = ((state.last < experts) & (state.last != actions)).float()
    parts = {
        "quality": table.outcomes.quality[state.row].gather(-1, chosen).squeeze(-1),
        "compute": cost.gather(-1, chosen).squeeze(-1),
        "missed_tokens": (context - state.cached).gather(-1, chosen).squeeze(-1),
        "switched": switched,
        "share": share,
    }
    reward = utility(parts, {"compute": config.compute_weight})
    ends = table.last[state.place]
    drawn, place = state.drawn + 1, torch.where(ends, state.place, state.place + 1)
    topic = table.topics.following(state.seed, drawn, state.topic, config.persistence)
    # At the next turn a cache holds what the prompts since have in common with it, until it expires.
    idle = torch.where(answers, 0.0, state.idle) + table.gap_s[place].unsqueeze(-1)
    cached = torch.minimum(torch.where(answers, context, state.cached), table.shared[place].unsqueeze(-1))
    after = SessionState(
        seed=state.seed,
        drawn=drawn,
        topic=topic,
        row=table.topics.row_of(state.seed, drawn, topic),
        place=place,
        cached=torch.where(idle <= table.expiry_s, cached, 0.0),
        idle=idle,
        last=actions,
        turn=state.turn + 1,
        switches=state.switches + switched,
    )
    return after, Step(reward, ends, parts)


def observe(table: SessionTable, state: SessionState) -> Tensor:
    """Return the observations, [B, D + 5 N + 4] float32."""
    context, shared = (column[state.place].unsqueeze(-1) for column in (table.context, table.shared))
    warm = torch.where(table.gap_s[state.place].unsqueeze(-1) <= table.expiry_s, shared, 0.0)
    known = (
        table.outcomes.features[state.row],
        state.cached / context,
        torch.where(state.cached > 0, (state.idle / table.expiry_s).clamp(max=1.0), 1.0),
        shares(state.last.unsqueeze(-1), table.outcomes.experts),
        table.costs(state.place, state.cached, table.mean_output),
        table.costs(state.place, warm, table.mean_output),
        context.log2(),
        shared / context,
        state.turn.unsqueeze(-1),
        state.switches.unsqueeze(-1),
    )
    return torch.cat(known, dim=-1)


class SessionCore(BatchedCore[SessionState]):
    """B lanes of the session environment on one table.

    Args:
        table: the data, on the device to use.
        config: the options.
        lanes: B.
        seed: lane i uses the random stream `seed + i // group`.
        group: consecutive lanes that share a random stream, so that policies get the same conversations.

    Raises:
        InputError: `lanes` or `group` is less than 1.
    """

    def __init__(
        self, table: SessionTable, config: SessionConfig, lanes: int, seed: int = 0, group: int = 1
    ) -> None:
        super().__init__(table.outcomes.experts, table.first.device, lanes, group)
        self.table = table
        self.config = config
        self.observation_space = _observation_space(table)
        self.action_space: ActionSpace = spaces.Discrete(self.experts)
        self.state = self._initial_state(self._lane_seeds(seed))

    def clear(self, finished: Tensor) -> None:
        """Start the next conversation where `finished` [B] bool is True."""
        new = self._started(self.state.seed, self.state.drawn)
        pairs = zip(new, self.state, strict=True)
        self.state = SessionState(*(replace_lanes(finished, one, other) for one, other in pairs))

    def step(self, actions: Tensor) -> Step:
        """Answer one turn in every lane: [B] int64, the expert that answers."""
        self.state, step = transition(self.table, self.config, self.state, actions.reshape(self.lanes))
        return step

    def observation(self) -> Tensor:
        """Return the current observations, [B, D + 5 N + 4] float32."""
        return observe(self.table, self.state)

    def _started(self, seed: Tensor, drawn: Tensor) -> SessionState:
        """The first turn of the conversation that each lane draws at a counter."""
        table, lanes = self.table, len(seed)
        topic = table.topics.drawn(seed, drawn)
        zeros = torch.zeros((lanes, self.experts), device=self.device)
        return SessionState(
            seed=seed,
            drawn=drawn,
            topic=topic,
            row=table.topics.row_of(seed, drawn, topic),
            place=table.first[query_rows(seed + _SESSIONS, drawn, len(table.first))],
            cached=zeros,
            idle=zeros + _NEVER,
            last=torch.full((lanes,), self.experts, device=self.device),
            turn=zeros[:, 0].clone(),
            switches=zeros[:, 0].clone(),
        )

    def _initial_state(self, seeds: Tensor) -> SessionState:
        return self._started(seeds, torch.zeros_like(seeds))


def build_session(
    table: OutcomeTable | Path | str = "digits",
    lanes: int = 1,
    *,
    split: str | None = "train",
    sessions: Conversations | Path | str = "generated",
    device: torch.device | str = "cpu",
    **options: Any,
) -> SessionCore:
    """Build a core from a table; the arguments are those of the environment.

    Args:
        table: an outcome table, a Parquet path or the name of a source.
        lanes: B.
        split: the rows to draw from; None for all.
        sessions: `generated`, a Parquet trace with `hash_ids`, or conversations.
        device: where the tensors live.
        options: the fields of `SessionConfig`.

    Raises:
        InputError: an argument is unknown or out of range, the table has no features, or a trace cannot be
            read.
    """
    config = config_from(SessionConfig, build_session, options)
    rows, _ = open_rows(table, split)
    if isinstance(sessions, Conversations):
        conversations = sessions
    elif sessions == "generated":
        conversations = Conversations.generated(_GENERATED)
    else:
        conversations = Conversations.read(sessions)
    return SessionCore(SessionTable.of(rows, conversations, config, device=device), config, lanes)


SessionEnv, SessionVectorEnv = environment_classes("Session", build_session, __doc__)


def _observation_space(table: SessionTable) -> spaces.Box:
    """Return the bounds of the features, [0, 1] for shares and flags, and the largest costs and lengths."""
    experts, (low, high) = table.outcomes.experts, table.outcomes.feature_bounds()
    zeros, ones = np.zeros(experts), np.ones(experts)
    longest = float(table.context.max())
    cost = (table.prices.amax(dim=0) * (longest + table.mean_output)).cpu().numpy() * (1.0 + 1e-6)
    turns = float(len(table.context))
    return float_box(
        [low, *[zeros] * 5, np.zeros(4)],
        [high, ones, ones, ones, cost, cost, np.array([np.log2(longest) + 1e-3, 1.0, turns, turns])],
    )
