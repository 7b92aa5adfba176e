"""The data of the session environment: outcomes, topics, conversations and prices as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from experts import InputError, OutcomeTable

from .conversations import Conversations
from .outcomes import Outcomes
from .session_config import SessionConfig, for_each
from .topics import Topics

__all__ = ["SessionTable"]


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class SessionTable:
    """Outcomes by topic, S conversations of M turns in all, and the prices of N experts.

    Attributes:
        outcomes: features and quality; its compute, of single calls, is not used.
        topics: the rows of each topic.
        context, shared, output, gap_s: [M] float32, see `Conversations`.
        last: [M] bool, True at the last turn of a conversation.
        first: [S] int64, where each conversation begins.
        prices: [4, N] float32, units of compute per token: input, cached input, input that is not cached and
            output.
        expiry_s: [N] float32, seconds.
        mean_output: tokens of an answer: what a router knows of it before it calls a model.
        scale: US$ of one unit of compute: a turn of the most expensive expert, used throughout.
    """

    outcomes: Outcomes
    topics: Topics
    context: Tensor
    shared: Tensor
    output: Tensor
    gap_s: Tensor
    last: Tensor
    first: Tensor
    prices: Tensor
    expiry_s: Tensor
    mean_output: float
    scale: float

    @classmethod
    def of(
        cls,
        table: OutcomeTable,
        conversations: Conversations,
        config: SessionConfig,
        unit: SessionTable | None = None,
        device: torch.device | str = "cpu",
    ) -> SessionTable:
        """Move a table and its conversations to a device; its groups are the topics.

        Args:
            table: the rows.
            conversations: the lengths, tokens and gaps.
            config: the prices.
            unit: other rows, such as those of the training split, that prices, unit of compute and mean
                output are taken from; these rows if None.
            device: where the tensors live.

        Raises:
            InputError: the table has no features, or the numbers of prices are not those of the experts.
        """
        outcomes = Outcomes.of(table, 1.0, device)
        columns = {
            name: torch.tensor(getattr(conversations, name), dtype=torch.float32, device=device)
            for name in ("context", "shared", "output", "gap_s")
        }
        first = torch.from_numpy(conversations.first).to(device)
        last = torch.zeros(len(columns["context"]), dtype=torch.bool, device=device)
        last[first + torch.from_numpy(conversations.turns).to(device) - 1] = True
        expiry = torch.tensor(for_each("expiry_s", config.expiry_s, outcomes.experts), device=device)
        if unit is None:
            prices = _prices(table, config).to(device)
            alive = columns["gap_s"].unsqueeze(-1) <= expiry
            cached = torch.where(alive, columns["shared"].unsqueeze(-1), 0.0)
            costs = _cost(prices, columns["context"].unsqueeze(-1), cached, columns["output"].unsqueeze(-1))
            scale = float(costs.double().mean(dim=0).max())
            prices, mean_output = (prices / scale).float(), float(columns["output"].double().mean())
        else:
            prices, scale, mean_output = unit.prices, unit.scale, unit.mean_output
        return cls(
            outcomes=outcomes,
            topics=Topics.of(table.group, len(table), device),
            **columns,
            last=last,
            first=first,
            prices=prices,
            expiry_s=expiry.float(),
            mean_output=mean_output,
            scale=scale,
        )

    def costs(self, place: Tensor, cached: Tensor, output: Tensor | float) -> Tensor:
        """Compute [B, N] of answering turns with each expert.

        Args:
            place: [B] int64, the turns.
            cached: [B, N] float32, tokens of the prompt that each expert has in its cache.
            output: [B, 1] float32 tokens of the answers, or one number.
        """
        return _cost(self.prices, self.context[place].unsqueeze(-1), cached, output)


def _cost(prices: Tensor, context: Tensor, cached: Tensor, output: Tensor | float) -> Tensor:
    _, hit, missed, written = prices
    return (context - cached) * missed + cached * hit + output * written


def _prices(table: OutcomeTable, config: SessionConfig) -> Tensor:
    """The prices [4, N] float64 in US$ per token."""
    count = len(table.experts)
    if config.prices and len(config.prices) != count:
        fix = f"give {count}, or none"
        raise InputError("prices", list(config.prices), f"there are {count} experts", fix)
    mean = table.cost.mean(axis=0, dtype="float64")
    given = config.prices or tuple((mean / (mean.max() or 1.0)).clip(1e-6).tolist())
    shares = [
        for_each(name, getattr(config, name), count)
        for name in ("cached_share", "write_share", "output_share")
    ]
    base = torch.tensor(given, dtype=torch.float64) / 1e6
    return torch.stack([base, *(base * torch.tensor(share, dtype=torch.float64) for share in shares)])
