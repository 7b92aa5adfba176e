"""Experts with replicas and first-come-first-served queues, which work on fixed batches of requests.

A replica that becomes free takes up to `batch` waiting requests. A batch of n takes the time of its longest
request times `1 + batch_slope * (n - 1)`. Finish times are computed when a request is sent, and the request
pays then what it adds to the lateness of all if no other request follows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .outages import Outages, wall_time
from .queue_state import Charges, QueueState, at, late_charges
from .queueing_config import QueueingConfig

__all__ = ["QueueServers", "Queues"]

_LOOK = 4  # starts that are compared together when counting the requests that began


class Queues(NamedTuple):
    """The queues of B lanes; all times are uptime.

    Attributes:
        free: [B, N, C], when each replica finishes its work.
        starts: [B, N, W + 4], when each request sent to the expert begins, in order; else infinite.
        sent, begun: [B, N] int64, requests sent to the expert, and those that have begun.
        open_size: [B, N] int64, requests in the batch that is not yet full; 0 if there is none.
        open_work: [B, N], service time of its longest request.
        open_finish: [B, N], when it would finish.
        members: [B, N, batch] int64, its requests.
    """

    free: Tensor
    starts: Tensor
    sent: Tensor
    begun: Tensor
    open_size: Tensor
    open_work: Tensor
    open_finish: Tensor
    members: Tensor


class QueueServers:
    """Replicas with queues.

    Args:
        service: [T, N] float64, seconds of each query at each expert.
        replicas: [N] int64.
        config: the options.
    """

    extras = 0

    def __init__(self, service: Tensor, replicas: Tensor, config: QueueingConfig) -> None:
        self.service = service
        self.busy = replicas
        self.config = config
        self.experts = len(replicas)
        self._width = int(replicas.max())  # C
        self._ahead = torch.arange(_LOOK, device=replicas.device)

    def fitted(self, tokens: Tensor) -> Tensor:
        """The tokens: queues do not use them."""
        return tokens

    def empty(self, lanes: int) -> Queues:
        """The state of idle servers; `free` is infinite where an expert has fewer replicas than others."""
        device, config = self.busy.device, self.config
        times = torch.zeros((lanes, self.experts), dtype=torch.float64, device=device)
        whole = torch.zeros((lanes, self.experts), dtype=torch.int64, device=device)
        absent = torch.arange(self._width, device=device) >= self.busy.unsqueeze(-1)
        return Queues(
            free=times.unsqueeze(-1).repeat(1, 1, self._width).masked_fill(absent, float("inf")),
            starts=times.new_full((lanes, self.experts, config.window + _LOOK), float("inf")),
            sent=whole.clone(),
            begun=whole.clone(),
            open_size=whole.clone(),
            open_work=times.clone(),
            open_finish=times.clone(),
            members=whole.unsqueeze(-1).repeat(1, 1, config.batch),
        )

    def send(self, state: QueueState, actions: Tensor, row: Tensor) -> Charges:
        """Send the current requests, and return what each adds to the lateness of all."""
        queues, config, episodes = state.servers, self.config, state.episodes
        lane = torch.arange(len(actions), device=actions.device)
        request = lane * (config.window + 1) + state.step  # index into [B, W + 1], flattened
        expert = lane * self.experts + actions  # index into [B, N], flattened
        up, work = at(state.up, expert), at(self.service, row * self.experts + actions)
        free, slot = queues.free.flatten(0, 1).index_select(0, expert).min(dim=-1)
        outages = Outages(*(part.flatten(0, 1).index_select(0, expert) for part in episodes.outages))
        start = torch.maximum(up, free)  # also the start of an open batch, which has not begun
        if config.batch > 1:
            size = at(queues.open_size, expert)
            work = torch.maximum(work, torch.where(size > 0, at(queues.open_work, expert), work))
            end = start + work * (1.0 + config.batch_slope * size)
            closed = (size + 1 == config.batch) | (start <= up)
        else:
            size, end, closed = torch.zeros_like(expert), start + work, None
        finish = wall_time(outages, end)
        charges = late_charges(state, request, finish)
        if closed is not None:
            charges = self._with_members(state, lane, expert, size, finish, charges)
            queues.open_size.view(-1)[expert] = torch.where(closed, 0, size + 1)
            queues.open_work.view(-1)[expert] = work
            queues.open_finish.view(-1)[expert] = end
            queues.members.view(-1)[expert * config.batch + size] = state.step
        state.finish.view(-1)[request] = finish
        queues.free.view(-1)[expert * self._width + slot] = (
            end if closed is None else torch.where(closed, end, free)
        )
        count = at(queues.sent, expert)
        queues.starts.view(-1)[expert * (config.window + _LOOK) + count] = start
        queues.sent.view(-1)[expert] = count + 1
        return charges

    def advance(self, state: QueueState) -> Charges:
        """Start the requests that begin before now; nothing is left to pay."""
        queues = state.servers
        if self.config.batch > 1:
            free, slot = queues.free.min(dim=-1, keepdim=True)
            begins = (queues.open_size > 0).unsqueeze(-1) & (free <= state.up.unsqueeze(-1))
            queues.free.scatter_(-1, slot, torch.where(begins, queues.open_finish.unsqueeze(-1), free))
            queues.open_size.masked_fill_(begins.squeeze(-1), 0)
        while True:
            ahead = queues.begun.unsqueeze(-1) + self._ahead
            more = (queues.starts.gather(-1, ahead) <= state.up.unsqueeze(-1)).sum(dim=-1)
            queues.begun.add_(more)
            if not bool((more == _LOOK).any()):
                return self.settle(state)

    def counts(self, state: QueueState) -> tuple[Tensor, Tensor]:
        """The requests waiting, and the replicas at work: all of them where a request waits."""
        queues = state.servers
        waiting = queues.sent - queues.begun
        busy = (queues.free > state.up.unsqueeze(-1)).sum(dim=-1) - (self._width - self.busy)
        return waiting, torch.where(waiting > 0, self.busy, busy)

    def observed(self, state: QueueState) -> list[Tensor]:
        """Nothing beside the counts."""
        return []

    def settle(self, state: QueueState) -> Charges:
        """Zero: requests pay when they are sent."""
        return Charges(torch.zeros_like(state.spent), torch.zeros_like(state.spent))

    def _with_members(
        self, state: QueueState, lane: Tensor, expert: Tensor, size: Tensor, finish: Tensor, own: Charges
    ) -> Charges:
        """Add the delay of the requests whose batch the request joins, and update their finish times."""
        batch, window = self.config.batch, self.config.window
        there = torch.arange(batch, device=size.device) < size.unsqueeze(-1)
        joined = state.servers.members.flatten(0, 1).index_select(0, expert)
        members = (lane * (window + 1)).unsqueeze(-1) + torch.where(there, joined, window)
        before = at(state.finish, members)
        after = torch.where(there, finish.unsqueeze(-1), before)
        old, new = (late_charges(state, members, times) for times in (before, after))
        state.finish.view(-1)[members] = after
        lateness = own.lateness + new.lateness.sum(dim=-1) - old.lateness.sum(dim=-1)
        return Charges(lateness, own.missed + new.missed.sum(dim=-1) - old.missed.sum(dim=-1))
