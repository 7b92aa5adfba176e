"""Rate-limited APIs: token buckets on requests and tokens, 429s with Retry-After, failed calls, stragglers.

Each expert is one API with up to three buckets: requests, prompt tokens and answer tokens a minute. A bucket
holds `burst_s` seconds of its rate and refills continuously. A request that finds too little in a bucket gets
a 429 and is repeated at the time that Retry-After gives, in the order of arrival: it reserves what it needs,
and is sent when all buckets have refilled (virtual scheduling, the generic cell rate algorithm). A call fails
with probability `failure_rate`, returns after `failure_s`, and is repeated after `backoff_s`, twice that, and
so on; repeats count toward the limits. Then the first token comes after `first_s` and `prefill_s` for each
token of the prompt, and each further token after `token_s`; a straggler takes `straggler_slowdown` times as
long. The API itself has no queue.

Everything is known when a request is sent, so that it pays then. Simplifications: answer tokens count when
the request is sent, at their true number (Anthropic first counts an estimate); a bucket may be overdrawn by a
request that is larger than the bucket; an outage stops clock and refill.

Source of the buckets: Turner 1986, https://doi.org/10.1109/MCOM.1986.1092946; ITU-T I.371, annex A.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .outages import Outages, wall_time
from .queue_state import RECENT, Charges, QueueState, at, first_charges, late_charges, request_place
from .queueing_config import QueueingConfig

__all__ = ["ApiServers", "Apis"]


class Apis(NamedTuple):
    """The APIs of B lanes.

    Attributes:
        level: [B, N, 3] float64, in each bucket at `since`; below 0 if it is reserved.
        since: [B, N] float64 uptime.
        sent: [B, N] int64, requests sent to the API.
        begins: [B, N, W] float64 uptime, when each is sent; else infinite.
        ends: [B, N, W] float64 uptime, when each finishes; else infinite.
        times: [B, N, W, 2] float64, its seconds from arrival to the first token, and per further token.
        seen: [B, N] float64 uptime of the last observation.
        recent: [B, N, 2] float64, running means of `times` over the requests that finished.
    """

    level: Tensor
    since: Tensor
    sent: Tensor
    begins: Tensor
    ends: Tensor
    times: Tensor
    seen: Tensor
    recent: Tensor


class ApiServers:
    """Rate-limited APIs.

    Args:
        experts: N.
        config: the options.
        usual: [N, 2] float64, seconds to the first token and per further token, from which the running means
            begin.

    Raises:
        InputError: a list of the options does not have length N.
    """

    def __init__(self, experts: int, config: QueueingConfig, usual: Tensor) -> None:
        self.config = config
        self.experts = experts
        self.usual = usual
        self.each = {name: usual.new_tensor(value) for name, value in config.api.of(experts).items()}
        names = ("requests_per_minute", "input_per_minute", "output_per_minute")
        rate = torch.stack([self.each[name] for name in names], dim=-1) / 60.0
        self.rate = torch.where(rate > 0, rate, float("inf"))  # [N, 3] a second
        self.size = self.rate * self.each["burst_s"].unsqueeze(-1)
        self.busy = torch.full((experts,), config.window, device=usual.device)
        self.extras = 4 * experts + 2

    def fitted(self, tokens: Tensor) -> Tensor:
        """The tokens: APIs have room for all."""
        return tokens

    def empty(self, lanes: int) -> Apis:
        """The state of APIs without requests, with full buckets."""
        times = torch.zeros((lanes, self.experts), dtype=torch.float64, device=self.usual.device)
        never = times.new_full((lanes, self.experts, self.config.window), float("inf"))
        return Apis(
            level=self.size.repeat(lanes, 1, 1),
            since=times.clone(),
            sent=times.long(),
            begins=never,
            ends=never.clone(),
            times=times.new_zeros((*never.shape, 2)),
            seen=times.clone(),
            recent=self.usual.repeat(lanes, 1, 1),
        )

    def send(self, state: QueueState, actions: Tensor, row: Tensor) -> Charges:
        """Send the current requests, and return what each pays."""
        apis, each = state.servers, self.each
        expert = torch.arange(len(actions), device=actions.device) * self.experts + actions
        place = request_place(state, state.step)
        own = place * self.experts + actions
        tokens, luck = (
            part.reshape(-1, 2).index_select(0, own) for part in (state.episodes.tokens, state.episodes.luck)
        )
        chance = at(each["failure_rate"], actions)
        fails = (luck[:, 0].log() / chance.log()).floor().nan_to_num(posinf=0.0)
        up, rate, size = at(state.up, expert), self.rate[actions], self.size[actions]
        need = torch.cat([torch.ones_like(tokens[:, :1]), tokens], dim=-1) * (fails + 1.0).unsqueeze(-1)
        level = self._levels(apis, state.up).reshape(-1, 3).index_select(0, expert)
        # A request larger than the bucket is sent when the bucket is full.
        wait = ((torch.minimum(need, size) - level) / rate).clamp(min=0.0).nan_to_num(nan=0.0).amax(dim=-1)
        begin = up + wait  # not before that of an earlier request, which reserved what it needs
        lost = fails * at(each["failure_s"], actions) + at(each["backoff_s"], actions) * (2.0**fails - 1.0)
        slow = luck[:, 1] < at(each["straggler_rate"], actions)
        factor = torch.where(slow, at(each["straggler_slowdown"], actions), 1.0)
        first = at(each["first_s"], actions) + at(each["prefill_s"], actions) * tokens[:, 0]
        further = at(each["token_s"], actions) * factor
        first_up = begin + lost + first * factor
        end_up = first_up + further * (tokens[:, 1] - 1.0)
        outages = Outages(*(part.flatten(0, 1).index_select(0, expert) for part in state.episodes.outages))
        first_at, end_at = wall_time(outages, first_up), wall_time(outages, end_up)
        state.first.view(-1)[place] = first_at
        state.finish.view(-1)[place] = end_at
        count = at(apis.sent, expert)
        index = expert * self.config.window + count
        apis.begins.view(-1)[index] = begin
        apis.ends.view(-1)[index] = end_up
        waited = first_at - at(state.episodes.arrival, place)
        apis.times.view(-1, 2)[index] = torch.stack([waited, further], dim=-1)
        apis.sent.view(-1)[expert] = count + 1
        apis.level.view(-1, 3)[expert] = torch.where(size.isinf(), size, level - need)
        apis.since.view(-1)[expert] = up
        early, late = first_charges(state, place, first_at), late_charges(state, place, end_at)
        return Charges(early.lateness + late.lateness, torch.maximum(early.missed, late.missed))

    def advance(self, state: QueueState) -> Charges:
        """Observe the requests that finished before now; nothing is left to pay."""
        apis, now = state.servers, state.up.unsqueeze(-1)
        finished = (apis.ends > apis.seen.unsqueeze(-1)) & (apis.ends <= now)
        count = finished.sum(dim=-1, keepdim=True)
        mean = (apis.times * finished.unsqueeze(-1)).sum(dim=-2) / count.clamp(min=1)
        apis.recent.add_((1.0 - (1.0 - RECENT) ** count) * (mean - apis.recent))
        apis.seen.copy_(state.up)
        return self.settle(state)

    def counts(self, state: QueueState) -> tuple[Tensor, Tensor]:
        """The requests that wait for a limit, and those at work."""
        apis, now = state.servers, state.up.unsqueeze(-1)
        waiting = (apis.begins > now).sum(dim=-1) - (self.config.window - apis.sent)
        return waiting, ((apis.begins <= now) & (apis.ends > now)).sum(dim=-1)

    def observed(self, state: QueueState) -> list[Tensor]:
        """Used share of the fullest limit, tokens to prefill (0), recent times, and the current request."""
        apis, place = state.servers, request_place(state, state.step)
        share = (1.0 - self._levels(apis, state.up) / self.size).nan_to_num(nan=0.0)
        lane = torch.arange(len(state.step), device=state.step.device)
        return [
            share.amax(dim=-1),
            torch.zeros_like(apis.since),
            apis.recent[..., 0],
            apis.recent[..., 1],
            state.episodes.tokens[lane, state.step, :, 0].mean(dim=-1, keepdim=True),
            at(state.episodes.first_deadline, place).unsqueeze(-1).nan_to_num(posinf=0.0),
        ]

    def settle(self, state: QueueState) -> Charges:
        """Zero: requests pay when they are sent."""
        return Charges(torch.zeros_like(state.spent), torch.zeros_like(state.spent))

    def _levels(self, apis: Apis, up: Tensor) -> Tensor:
        """What the buckets hold at uptimes [B, N], [B, N, 3]; infinite without a limit."""
        passed = (up - apis.since).unsqueeze(-1)
        return torch.minimum(apis.level + passed * self.rate.nan_to_num(posinf=0.0), self.size)
