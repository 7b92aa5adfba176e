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
jumps from change to change, all engines of all lanes together, with the same result as step by step.

Legend: K engines of all lanes that still have to work, `at` [K] int64 where they are among the B N.

Source: Kwon et al. 2023 (vLLM), https://arxiv.org/abs/2309.06180; chunked prefill, Agrawal et al. 2024
(Sarathi-Serve), https://arxiv.org/abs/2403.02310.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .outages import Outages, wall_time
from .queue_state import RECENT, Charges, QueueState, at, first_charges, late_charges, mapped, request_place
from .queueing_config import QueueingConfig

__all__ = ["ContinuousServers", "Engine", "Engines"]

_NEVER = 2.0**52  # steps
_ENDED = float("inf")


class Engine(NamedTuple):
    """The numbers of engines, [K] float64 each, whole but for times.

    Attributes:
        clock: uptime, end of the step in progress, or of the last one.
        steps: so far.
        running: B, decoding sequences.
        context: C, tokens that they hold.
        used: tokens in the cache: those, and all of the request in prefill.
        prefill: the request in prefill; W for none.
        left: its tokens that are not computed yet.
        ahead: tokens of all requests at the engine that are not computed yet.
        head, tail: of its queue.
        due: step at whose end the next sequence is done; 2^52 for none.
        first, further: running means of the seconds to the first token, and per further token.
    """

    clock: Tensor
    steps: Tensor
    running: Tensor
    context: Tensor
    used: Tensor
    prefill: Tensor
    left: Tensor
    ahead: Tensor
    head: Tensor
    tail: Tensor
    due: Tensor
    first: Tensor
    further: Tensor


class Engines(NamedTuple):
    """The engines of B lanes.

    Attributes:
        numbers: [B, N, 13] float64, the fields of `Engine`.
        queue: [B, N, W + 1] int64, requests in the order of admission; those from `head` to `tail` wait.
        end: [B, N, S] float64, step at whose end each sequence is done; 2^52 for none.
        who: [B, N, S] int64, its request.
        generated: [B, W + 1] float64, tokens that a preempted request had.
    """

    numbers: Tensor
    queue: Tensor
    end: Tensor
    who: Tensor
    generated: Tensor

    @property
    def engine(self) -> Engine:
        """The numbers by name, [B, N] float64 each, views."""
        return Engine(*self.numbers.unbind(dim=-1))


class _Work(NamedTuple):
    """K engines that work: where they are, a copy of their numbers, and what their lanes pay, [B, 2]."""

    at: Tensor
    engine: Engine
    paid: Tensor


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
        self.config = config
        self.experts = experts
        self.usual = usual
        each = {name: usual.new_tensor(value) for name, value in config.continuous.of(experts).items()}
        self.busy, self.room = each["max_seqs"].long(), each["kv_tokens"]
        names = ("step_s", "sequence_s", "context_s", "prefill_s", "kv_tokens", "max_seqs", "chunk")
        self._constants = torch.stack([each[name] for name in names])  # [7, N]
        self.extras = 4 * experts + 2

    def fitted(self, tokens: Tensor) -> Tensor:
        """Tokens of prompts and answers [..., N, 2] float64, cut so that each request fits in the cache."""
        answers = torch.minimum(tokens[..., 1], self.room - 1)
        return torch.stack([torch.minimum(tokens[..., 0], self.room - answers), answers], dim=-1)

    def empty(self, lanes: int) -> Engines:
        """The state of idle engines."""
        columns, slots = self.config.window + 1, min(int(self.busy.max()), self.config.window)
        numbers = self.usual.new_zeros((lanes, self.experts, len(Engine._fields)))
        engine = Engine(*numbers.unbind(dim=-1))
        engine.prefill.fill_(self.config.window)
        engine.due.fill_(_NEVER)
        numbers[..., -2:] = self.usual
        whole = self.busy.new_zeros((lanes, self.experts, 1))
        return Engines(
            numbers=numbers,
            queue=whole.repeat(1, 1, columns),
            end=numbers.new_full((lanes, self.experts, slots), _NEVER),
            who=whole.repeat(1, 1, slots),
            generated=numbers.new_zeros((lanes, columns)),
        )

    def send(self, state: QueueState, actions: Tensor, row: Tensor) -> Charges:
        """Put the current requests into queues; nothing is paid yet."""
        engines, window = state.servers, self.config.window
        expert = torch.arange(len(actions), device=actions.device) * self.experts + actions
        numbers = engines.numbers.flatten(0, 1).index_select(0, expert)
        engine = Engine(*numbers.unbind(dim=-1))
        idle = ~self._works(engine)
        start = torch.maximum(engine.clock, at(state.up, expert))
        engine.clock.copy_(torch.where(idle, start, engine.clock))
        engines.queue.view(-1)[expert * (window + 1) + engine.tail.long()] = state.step
        engine.tail.add_(1)
        engine.ahead.add_(self._tokens(state, expert, state.step)[0])
        engines.numbers.view(-1, numbers.shape[-1]).index_copy_(0, expert, numbers)
        return Charges(torch.zeros_like(state.spent), torch.zeros_like(state.spent))

    def advance(self, state: QueueState) -> Charges:
        """Run the engines to now, or to the end after the last request, and pay for the tokens that came."""
        ended = (state.step >= self.config.window).unsqueeze(-1)
        return self._run(state, torch.where(ended, _ENDED, state.up))

    def counts(self, state: QueueState) -> tuple[Tensor, Tensor]:
        """The requests waiting, and those in prefill or decoding."""
        engine = state.servers.engine
        return engine.tail - engine.head, engine.running + (engine.prefill < self.config.window)

    def observed(self, state: QueueState) -> list[Tensor]:
        """Share of the cache in use, tokens to prefill, recent times of tokens, and the current request."""
        engine, place = state.servers.engine, request_place(state, state.step)
        prompt = state.episodes.tokens.flatten(0, 1).index_select(0, place)[..., 0]
        return [
            engine.used / self.room,
            engine.ahead,
            engine.first,
            engine.further,
            prompt.mean(dim=-1, keepdim=True),
            at(state.episodes.first_deadline, place).unsqueeze(-1).nan_to_num(posinf=0.0),
        ]

    def settle(self, state: QueueState) -> Charges:
        """What the requests in flight will pay if no other request follows."""
        copied = state._replace(
            first=state.first.clone(),
            finish=state.finish.clone(),
            servers=mapped(state.servers, lambda value: value.clone()),
        )
        return self._run(copied, torch.full_like(state.up, _ENDED))

    def _works(self, engine: Engine) -> Tensor:
        return (engine.running > 0) | (engine.prefill < self.config.window) | (engine.head < engine.tail)

    def _run(self, state: QueueState, until: Tensor) -> Charges:
        """Run every engine to the end of the step in which its clock reaches `until` [B, N]."""
        paid = state.spent.new_zeros((len(state.step), 2))
        numbers, until = state.servers.numbers.view(-1, len(Engine._fields)), until.flatten()
        everyone = Engine(*numbers.unbind(dim=-1))
        # Those due have a clock that was reached.
        where = (self._works(everyone) & (everyone.clock < until)).nonzero().squeeze(-1)
        until = until.index_select(0, where)
        while len(where):
            table = numbers.index_select(0, where).T.contiguous()
            self._change(state, where, table, until, paid)
            numbers.index_copy_(0, where, table.T)
            engine = Engine(*table)
            more = self._works(engine) & ((engine.clock < until) | (engine.due <= engine.steps))
            where, until = where[more], until[more]
        return Charges(*paid.unbind(dim=-1))

    def _change(self, state: QueueState, where: Tensor, table: Tensor, until: Tensor, paid: Tensor) -> None:
        """Finish a sequence that is due, then run steps to the next change of the sequences.

        Args:
            state: of the lanes.
            where: [K] int64.
            table: [13, K] float64, the numbers of the engines, which are changed.
            until: [K] float64 uptime.
            paid: [B, 2] float64, which is changed.
        """
        engine, window = Engine(*table), self.config.window
        constants = self._constants.index_select(1, where % self.experts)
        room, seats = constants[4], constants[5]

        def change(mask: Tensor, function: Callable[[QueueState, _Work], None]) -> None:
            rows = mask.nonzero().squeeze(-1)
            if len(rows):
                part = table.index_select(1, rows)
                function(state, _Work(where.index_select(0, rows), Engine(*part), paid))
                table.index_copy_(1, rows, part)

        change(engine.due <= engine.steps, self._finish)
        goes = (engine.due > engine.steps) & (engine.clock < until) & self._works(engine)
        full = goes & (engine.used + engine.running > room)
        change(full, self._preempt)
        goes &= ~full
        waits = (engine.prefill == window) & (engine.head < engine.tail)
        change(goes & waits & (engine.running < seats), self._admit)
        change(self._steps(engine, constants, goes, until), self._decode)

    def _admit(self, state: QueueState, work: _Work) -> None:
        """Begin the prefill of the first waiting request, where the cache has room."""
        where, engine, _ = work
        queue = state.servers.queue.view(-1)
        request = at(queue, where * (self.config.window + 1) + engine.head.long())
        generated = at(state.servers.generated, self._place(where, request))
        tokens = self._tokens(state, where, request)[0] + generated
        fits = engine.used + engine.running + tokens + 1 <= at(self.room, where % self.experts)
        engine.prefill.copy_(torch.where(fits, request, self.config.window))
        engine.left.copy_(tokens)
        engine.used.add_((tokens + 1) * fits)
        engine.head.add_(fits)

    def _steps(self, engine: Engine, constants: Tensor, goes: Tensor, until: Tensor) -> Tensor:
        """Run steps until the sequences change or the time is reached; return where a prefill ended, [K]."""
        step_s, sequence_s, context_s, prefill_s, room, _, most_chunk = constants
        running, prefills = engine.running, engine.prefill < self.config.window
        chunk = torch.minimum(engine.left, most_chunk) * prefills
        chunks = torch.where(prefills, ((engine.left - 1) / most_chunk).floor().clamp(min=1.0), _NEVER)
        most = torch.minimum(chunks, engine.due - engine.steps)
        growing = ((room - engine.used) / running.clamp(min=1.0)).floor()
        most = torch.minimum(most, torch.where(running > 0, growing, _NEVER))
        # k steps take `base * k + growth * k * (k - 1)` seconds.
        base = step_s + sequence_s * running + context_s * engine.context + prefill_s * chunk
        growth = 0.5 * context_s * running
        time = until - engine.clock
        half = 0.5 * (base - growth)
        root = time / (half + (half.square() + growth * time).sqrt())
        steps = root.nan_to_num(nan=_NEVER, posinf=_NEVER).ceil()
        early = (steps - 1) * (base + growth * (steps - 2)) >= time  # of rounding
        steps = torch.minimum(steps - early.double(), most).clamp(min=1.0) * goes
        gained = steps * running
        engine.clock.add_(steps * (base + growth * (steps - 1)))
        engine.steps.add_(steps)
        engine.context.add_(gained)
        engine.used.add_(gained)
        engine.left.sub_(steps * chunk)
        engine.ahead.sub_(steps * chunk)
        return goes & prefills & (engine.left <= 0)

    def _decode(self, state: QueueState, work: _Work) -> None:
        """Give the requests in prefill their first token."""
        engines, (where, engine, _) = state.servers, work
        request = engine.prefill.long()
        place = self._place(where, request)
        tokens_in, tokens_out = self._tokens(state, where, request)
        had = at(engines.generated, place)
        begins = had == 0
        first = torch.where(begins, self._wall(state, where, engine.clock), at(state.first, place))
        state.first.view(-1).index_copy_(0, place, first)
        self._pay(work, first_charges(state, place, first), begins)
        engine.first.add_(RECENT * begins * (first - at(state.episodes.arrival, place) - engine.first))
        slots = engines.end.shape[-1]
        slot = where * slots + engines.end.view(-1, slots).index_select(0, where).argmax(dim=-1)
        end = engine.steps + tokens_out - had - 1
        engines.end.view(-1).index_copy_(0, slot, end)
        engines.who.view(-1).index_copy_(0, slot, request)
        engine.due.copy_(torch.minimum(engine.due, end))
        engine.running.add_(1)
        engine.context.add_(tokens_in + had + 1)
        engine.prefill.fill_(self.config.window)

    def _finish(self, state: QueueState, work: _Work) -> None:
        """Finish the sequence that is due."""
        engines, (where, engine, _) = state.servers, work
        end = engines.end.view(-1, engines.end.shape[-1]).index_select(0, where)
        slot = end.argmin(dim=-1, keepdim=True)
        request = at(engines.who, where * end.shape[-1] + slot.squeeze(-1))
        place = self._place(where, request)
        finish = self._wall(state, where, engine.clock)
        state.finish.view(-1).index_copy_(0, place, finish)
        charges, first = late_charges(state, place, finish), at(state.first, place)
        unpaid = first_charges(state, place, first).missed == 0  # else a miss was paid at the first token
        self._pay(work, charges._replace(missed=charges.missed * unpaid))
        tokens_in, tokens_out = self._tokens(state, where, request)
        further = (finish - first) / (tokens_out - 1).clamp(min=1)
        engine.further.add_(RECENT * (tokens_out > 1) * (further - engine.further))
        end.scatter_(-1, slot, _NEVER)
        engines.end.view(-1, end.shape[-1]).index_copy_(0, where, end)
        engine.due.copy_(end.amin(dim=-1))
        engine.running.sub_(1)
        engine.context.sub_(tokens_in + tokens_out)
        engine.used.sub_(tokens_in + tokens_out)

    def _preempt(self, state: QueueState, work: _Work) -> None:
        """Return the last admitted sequence to the head of the queue."""
        engines, (where, engine, _) = state.servers, work
        window = self.config.window
        prefills = engine.prefill < window
        end, who = (
            part.view(-1, part.shape[-1]).index_select(0, where) for part in (engines.end, engines.who)
        )
        last, slot = torch.where(end < _NEVER, who, -1).max(dim=-1, keepdim=True)
        request = torch.where(prefills, engine.prefill.long(), last.squeeze(-1))
        place = self._place(where, request)
        tokens_in, tokens_out = self._tokens(state, where, request)
        left = end.gather(-1, slot).squeeze(-1) - engine.steps
        had = torch.where(prefills, at(engines.generated, place), tokens_out - left)
        engines.generated.view(-1).index_copy_(0, place, had)
        held = tokens_in + had
        engine.ahead.add_(held - engine.left * prefills)
        engine.used.sub_(held + prefills.double())
        engine.context.sub_(held * ~prefills)
        engine.running.sub_((~prefills).double())
        engine.prefill.fill_(window)
        end = torch.where(prefills.unsqueeze(-1), end, end.scatter(-1, slot, _NEVER))
        engines.end.view(-1, end.shape[-1]).index_copy_(0, where, end)
        engine.due.copy_(end.amin(dim=-1))
        engine.head.sub_(1)
        engines.queue.view(-1).index_copy_(0, where * (window + 1) + engine.head.long(), request)

    def _pay(self, work: _Work, charges: Charges, which: Tensor | None = None) -> None:
        pair = torch.stack(charges, dim=-1)
        pair = pair if which is None else pair * which.unsqueeze(-1)
        work.paid.index_add_(0, work.at // self.experts, pair)

    def _place(self, where: Tensor, request: Tensor) -> Tensor:
        """Indices into [B, W + 1], flattened, of requests [k] at engines [k]."""
        return where // self.experts * (self.config.window + 1) + request

    def _tokens(self, state: QueueState, where: Tensor, request: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the prompts and the answers of requests [k], float64."""
        index = self._place(where, request) * self.experts + where % self.experts
        tokens = state.episodes.tokens.view(-1, 2).index_select(0, index)
        return tokens[:, 0], tokens[:, 1]

    def _wall(self, state: QueueState, where: Tensor, up: Tensor) -> Tensor:
        """Wall times at uptimes [k] of engines [k]."""
        outages = state.episodes.outages
        if not outages.fails.shape[-1]:
            return up
        return wall_time(Outages(*(part.flatten(0, 1).index_select(0, where) for part in outages)), up)
