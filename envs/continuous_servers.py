"""Engines with continuous batching: prefill, decode, a KV cache, preemption by recomputation.

Each expert is one engine, which works in steps. A step with B decoding sequences, which hold C tokens, and a
chunk of P prompt tokens takes `step_s + sequence_s * B + context_s * C + prefill_s * P` seconds. In every
step each decoding sequence gains a token; the first token comes at the end of the prefill. At the start of a
step, the engine

1. preempts the last admitted sequences, while the cache lacks room for a token of each sequence: their tokens
   leave the cache, and they return to the head of the queue, to be computed again;
2. else admits the first waiting request, if no other is in prefill, fewer than `max_seqs` sequences run, and
   the cache has room for its tokens and a token of each sequence.

Simplifications: a step prefills one request (vLLM fills a chunk from several); the cache counts tokens, not
blocks; the room of a prompt is taken when it is admitted; attention of the prompt to itself is not counted;
prefixes are not cached. A prompt is cut where it would not fit in the cache with its answer. An outage stops
the engine, which then continues. A request arrives at the end of the step in progress, so observations are
up to one step early.

Between two changes of the sequences, k steps have a closed form, a polynomial of degree 2 in k. So an engine
jumps from change to change, in all lanes together, with the same result as step by step.

Source: Kwon et al. 2023 (vLLM), https://arxiv.org/abs/2309.06180; chunked prefill, Agrawal et al. 2024
(Sarathi-Serve), https://arxiv.org/abs/2403.02310.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .outages import wall_time
from .queue_state import Charges, QueueState, at, first_charges, late_charges, mapped, request_place
from .queueing_config import QueueingConfig

__all__ = ["ContinuousServers", "Engines"]

_NEVER = 2**52  # steps
RECENT = 1 / 8  # rate of the running means of the times of tokens


class Engines(NamedTuple):
    """The engines of B lanes.

    Attributes:
        clock: [B, N] float64 uptime, end of the step in progress, or of the last one.
        steps: [B, N] int64, steps so far.
        running: [B, N] int64, B: decoding sequences.
        context: [B, N] int64, C: tokens that they hold.
        used: [B, N] int64, tokens in the cache: those, and all of the request in prefill.
        prefill: [B, N] int64, the request in prefill; W for none.
        left: [B, N] int64, its tokens that are not computed yet.
        ahead: [B, N] int64, tokens of all requests at the engine whose prefill is not done.
        queue: [B, N, W + 1] int64, requests in the order of admission; those from `head` to `tail` wait.
        head, tail: [B, N] int64.
        end: [B, N, S] int64, step at whose end each sequence is done; 2^52 for none.
        who: [B, N, S] int64, its request.
        generated: [B, W + 1] int64, tokens that a preempted request had.
        recent: [B, N, 2] float64, running means of the seconds to the first token and per further token.
    """

    clock: Tensor
    steps: Tensor
    running: Tensor
    context: Tensor
    used: Tensor
    prefill: Tensor
    left: Tensor
    ahead: Tensor
    queue: Tensor
    head: Tensor
    tail: Tensor
    end: Tensor
    who: Tensor
    generated: Tensor
    recent: Tensor


class ContinuousServers:
    """Engines with continuous batching.

    Args:
        experts: N.
        config: the options.
        usual: [N, 2] float64, seconds to the first token and per further token at an idle engine, from which
            the running means begin.

    Raises:
        InputError: a list of the options does not have length N.
    """

    def __init__(self, experts: int, config: QueueingConfig, usual: Tensor) -> None:
        device = usual.device
        self.config = config
        self.experts = experts
        self.usual = usual
        each = {name: value.to(device) for name, value in config.continuous.of(experts).items()}
        self.cost = tuple(each[name] for name in ("step_s", "sequence_s", "context_s", "prefill_s"))
        self.room, self.busy, self.chunk = (each[name].long() for name in ("kv_tokens", "max_seqs", "chunk"))
        self.extras = 4 * experts + 2

    def empty(self, lanes: int) -> Engines:
        """The state of idle engines."""
        columns, slots = self.config.window + 1, min(int(self.busy.max()), self.config.window)
        whole = torch.zeros((lanes, self.experts), dtype=torch.int64, device=self.busy.device)
        none = whole.unsqueeze(-1).repeat(1, 1, slots)
        return Engines(
            clock=whole.double(),
            prefill=whole + self.config.window,
            queue=whole.unsqueeze(-1).repeat(1, 1, columns),
            end=none + _NEVER,
            who=none,
            generated=whole.new_zeros((lanes, columns)),
            recent=self.usual.repeat(lanes, 1, 1),
            **{name: whole.clone() for name in ("steps", "running", "context", "used", "left", "ahead")},
            **{name: whole.clone() for name in ("head", "tail")},
        )

    def send(self, state: QueueState, actions: Tensor, row: Tensor) -> Charges:
        """Put the current requests into queues; nothing is paid yet."""
        engines = state.servers
        expert = torch.arange(len(actions), device=actions.device) * self.experts + actions
        idle = (engines.running == 0) & (engines.prefill == self.config.window)
        idle &= engines.head == engines.tail
        start = torch.maximum(at(engines.clock, expert), at(state.up, expert))
        engines.clock.view(-1)[expert] = torch.where(at(idle, expert), start, at(engines.clock, expert))
        tail = at(engines.tail, expert)
        engines.queue.view(-1)[expert * (self.config.window + 1) + tail] = state.step
        engines.tail.view(-1)[expert] = tail + 1
        tokens_in, _ = self._tokens(state, state.step.unsqueeze(-1).expand(-1, self.experts))
        engines.ahead.view(-1)[expert] += at(tokens_in, expert)
        zero = torch.zeros_like(state.spent)
        return Charges(zero, zero)

    def advance(self, state: QueueState) -> Charges:
        """Run the engines to now, and pay for the tokens that came."""
        ended = (state.step >= self.config.window).unsqueeze(-1)
        return self._run(state, torch.where(ended, float("inf"), state.up))

    def counts(self, state: QueueState) -> tuple[Tensor, Tensor]:
        """The requests waiting, and those in prefill or decoding."""
        engines = state.servers
        return engines.tail - engines.head, engines.running + (engines.prefill < self.config.window)

    def observed(self, state: QueueState) -> list[Tensor]:
        """Share of the cache in use, tokens to prefill, recent times of tokens, and the current request."""
        engines, place = state.servers, request_place(state, state.step)
        return [
            engines.used / self.room,
            engines.ahead,
            engines.recent[..., 0],
            engines.recent[..., 1],
            self._prompt(state).unsqueeze(-1),
            at(state.episodes.first_deadline, place).unsqueeze(-1).nan_to_num(posinf=0.0),
        ]

    def settle(self, state: QueueState) -> Charges:
        """What the requests in flight will pay if no other request follows."""
        copied = state._replace(
            first=state.first.clone(),
            finish=state.finish.clone(),
            servers=mapped(state.servers, lambda value: value.clone()),
        )
        return self._run(copied, torch.full_like(state.up, float("inf")))

    def _run(self, state: QueueState, until: Tensor) -> Charges:
        """Run every engine to the end of the step in which its clock reaches `until` [B, N]."""
        engines, window = state.servers, self.config.window
        paid = [torch.zeros_like(state.up) for _ in Charges._fields]
        while True:
            due, slot = engines.end.min(dim=-1)
            done = due <= engines.steps
            works = (engines.running > 0) | (engines.prefill < window) | (engines.head < engines.tail)
            goes = works & ~done & (engines.clock < until)
            if not bool((done | goes).any()):
                return Charges(*(each.sum(dim=-1) for each in paid))
            if bool(done.any()):
                self._finish(state, done, slot, paid)
            full = goes & (engines.used + engines.running > self.room)
            if bool(full.any()):
                self._preempt(state, full)
                goes = goes & ~full
            self._admit(state, goes)
            self._step(state, goes, due, until, paid)

    def _admit(self, state: QueueState, goes: Tensor) -> None:
        engines, window = state.servers, self.config.window
        free = goes & (engines.prefill == window) & (engines.head < engines.tail)
        first = engines.queue.gather(-1, engines.head.unsqueeze(-1)).squeeze(-1)
        first = torch.where(free, first, window)
        tokens = self._tokens(state, first)[0] + at(engines.generated, request_place(state, first))
        room = engines.used + engines.running + tokens + 1 <= self.room
        admits = free & (engines.running < self.busy) & room
        engines.prefill.copy_(torch.where(admits, first, engines.prefill))
        engines.left.copy_(torch.where(admits, tokens, engines.left))
        engines.used.add_(torch.where(admits, tokens + 1, 0))
        engines.head.add_(admits)

    def _step(self, state: QueueState, goes: Tensor, due: Tensor, until: Tensor, paid: list[Tensor]) -> None:
        """Run steps until the sequences change or the time is reached, where `goes` [B, N]."""
        engines = state.servers
        step_s, sequence_s, context_s, prefill_s = self.cost
        running, prefills = engines.running, engines.prefill < self.config.window
        chunk = torch.where(prefills, torch.minimum(engines.left, self.chunk), 0)
        chunks = torch.where(engines.left > self.chunk, (engines.left - 1) // self.chunk, 1)
        most = torch.minimum(torch.where(prefills, chunks, _NEVER), due - engines.steps)
        most = torch.minimum(most, (self.room - engines.used) // running.clamp(min=1))
        # k steps take `base * k + growth * k * (k - 1)` seconds.
        base = step_s + sequence_s * running + context_s * engines.context + prefill_s * chunk
        growth = 0.5 * context_s * running
        time = (until - engines.clock).clamp(min=0.0)
        half = 0.5 * (base - growth)
        root = time / (half + (half.square() + growth * time).sqrt())
        steps = root.nan_to_num(nan=_NEVER, posinf=_NEVER).ceil().clamp(1, _NEVER).long()
        earlier = (steps - 1) * (base + growth * (steps - 2)) >= time  # of rounding
        steps = torch.minimum(steps - (earlier & (steps > 1)).long(), most).clamp(min=1)
        steps = torch.where(goes, steps, 0)
        engines.clock.add_(steps * (base + growth * (steps - 1)))
        engines.steps.add_(steps)
        engines.context.add_(steps * running)
        engines.used.add_(steps * running)
        engines.left.sub_(steps * chunk)
        engines.ahead.sub_(steps * chunk)
        prefilled = goes & prefills & (engines.left == 0)
        if bool(prefilled.any()):
            self._decode(state, prefilled, paid)

    def _decode(self, state: QueueState, prefilled: Tensor, paid: list[Tensor]) -> None:
        """Give requests in prefill their first token, where `prefilled` [B, N]."""
        engines, window = state.servers, self.config.window
        request = torch.where(prefilled, engines.prefill, window)
        place = request_place(state, request)
        tokens_in, tokens_out = self._tokens(state, request)
        had = at(engines.generated, place)
        begins = prefilled & (had == 0)
        first = torch.where(begins, wall_time(state.episodes.outages, engines.clock), at(state.first, place))
        state.first.view(-1)[place] = first
        _pay(paid, begins, first_charges(state, place, first))
        waited = first - at(state.episodes.arrival, place)
        _average(engines.recent[..., 0], begins, waited)
        free = engines.end.argmax(dim=-1, keepdim=True)
        end = engines.steps + tokens_out - had - 1
        for slots, value in ((engines.end, end), (engines.who, request)):
            old = slots.gather(-1, free)
            slots.scatter_(-1, free, torch.where(prefilled.unsqueeze(-1), value.unsqueeze(-1), old))
        engines.running.add_(prefilled)
        engines.context.add_(torch.where(prefilled, tokens_in + had + 1, 0))
        engines.prefill.masked_fill_(prefilled, window)

    def _finish(self, state: QueueState, done: Tensor, slot: Tensor, paid: list[Tensor]) -> None:
        """Free the slots [B, N] of sequences that are done."""
        engines, window = state.servers, self.config.window
        slot = slot.unsqueeze(-1)
        request = torch.where(done, engines.who.gather(-1, slot).squeeze(-1), window)
        place = request_place(state, request)
        finish = torch.where(done, wall_time(state.episodes.outages, engines.clock), 0.0)
        state.finish.view(-1)[place] = finish
        charges, first = late_charges(state, place, finish), at(state.first, place)
        missed = first_charges(state, place, first).missed > 0  # paid at the first token
        _pay(paid, done, charges._replace(missed=charges.missed * ~missed))
        tokens_in, tokens_out = self._tokens(state, request)
        further = (finish - first) / (tokens_out - 1).clamp(min=1)
        _average(engines.recent[..., 1], done & (tokens_out > 1), further)
        held = torch.where(done, tokens_in + tokens_out, 0)
        engines.end.scatter_(-1, slot, torch.where(done.unsqueeze(-1), _NEVER, engines.end.gather(-1, slot)))
        engines.running.sub_(done.long())
        engines.context.sub_(held)
        engines.used.sub_(held)

    def _preempt(self, state: QueueState, full: Tensor) -> None:
        """Return the last admitted sequence to the head of the queue, where `full` [B, N]."""
        engines, window = state.servers, self.config.window
        waits = full & (engines.prefill < window)
        runs = full & ~waits
        last, slot = torch.where(engines.end < _NEVER, engines.who, -1).max(dim=-1, keepdim=True)
        request = torch.where(waits, engines.prefill, torch.where(runs, last.squeeze(-1), window))
        place = request_place(state, request)
        tokens_in, tokens_out = self._tokens(state, request)
        end = engines.end.gather(-1, slot)
        left = end.squeeze(-1) - engines.steps
        had = torch.where(runs, tokens_out - left, at(engines.generated, place))
        engines.generated.view(-1)[place] = torch.where(full, had, 0)
        held = tokens_in + had
        engines.ahead.add_(torch.where(waits, held - engines.left, torch.where(runs, held, 0)))
        engines.used.sub_(torch.where(waits, held + 1, torch.where(runs, held, 0)))
        engines.context.sub_(torch.where(runs, held, 0))
        engines.running.sub_(runs.long())
        engines.prefill.masked_fill_(waits, window)
        engines.end.scatter_(-1, slot, torch.where(runs.unsqueeze(-1), _NEVER, end))
        engines.head.sub_(full.long())
        head = engines.head.clamp(min=0).unsqueeze(-1)
        old = engines.queue.gather(-1, head)
        engines.queue.scatter_(-1, head, torch.where(full.unsqueeze(-1), request.unsqueeze(-1), old))

    def _tokens(self, state: QueueState, request: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the prompts and the answers of requests [B, N], [B, N] int64; the cache has room for them."""
        lengths = state.episodes.tokens
        place = request_place(state, request) * self.experts + torch.arange(
            self.experts, device=request.device
        )
        pairs = lengths.reshape(-1, 2).index_select(0, place.reshape(-1)).reshape(*place.shape, 2).long()
        tokens_out = torch.minimum(pairs[..., 1], self.room - 1)
        return torch.minimum(pairs[..., 0], self.room - tokens_out), tokens_out

    def _prompt(self, state: QueueState) -> Tensor:
        """Tokens of the current request's prompt, [B] float64: the mean over the experts."""
        lane = torch.arange(len(state.step), device=state.step.device)
        return state.episodes.tokens[lane, state.step, :, 0].mean(dim=-1)


def _pay(paid: list[Tensor], where: Tensor, charges: Charges) -> None:
    for total, charge in zip(paid, charges, strict=True):
        total.add_(torch.where(where, charge, 0.0))


def _average(mean: Tensor, where: Tensor, value: Tensor) -> None:
    mean.add_(torch.where(where, RECENT * (value - mean), 0.0))
