"""Answer a chat completion: decide, call the expert, fall back to the next best, log every attempt."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from experts.llm.asking import Reply, failure_of
from experts.llm.attempts import obeyed
from experts.llm.spending import cost_of

from .answer_chunks import as_chunks
from .called_models import CalledModels, NoVerdictError, text_of
from .chat_request import AUTO, BadRequestError, ChatRequest
from .counters import Counters
from .decider import Decider
from .decision import Decision
from .log_row import LogRows
from .log_writer import LogWriter
from .rate_limits import OverLimitError, RateLimits
from .served_servers import Call
from .upstream import Upstream, tokens_of

__all__ = ["Answering", "NoAnswerError", "RefusedError", "Started"]


class NoAnswerError(RuntimeError):
    """Every expert failed.

    Args:
        reasons: the reason by expert.
    """

    def __init__(self, reasons: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
        self.reasons = reasons


class RefusedError(RuntimeError):
    """An expert rejected the request itself, so no other expert is called.

    Args:
        status: HTTP status of the response.
        reason: the expert's error message.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(kw_only=True)
class Started:
    """An answer that is complete, or a stream that has begun.

    Attributes:
        decision: id of the decision, for `/v1/outcomes`.
        expert: name of the expert that answers.
        whole: the complete answer; None if it is streamed.
        chunks: the chunks of a streamed answer; None if it is complete.
    """

    decision: str
    expert: str
    whole: dict[str, Any] | None = None
    chunks: AsyncGenerator[dict[str, Any], None] | None = None

    def streamed(self, wants_usage: bool) -> Started:
        """Return a complete answer as a stream."""
        assert self.whole is not None
        return replace(self, whole=None, chunks=as_chunks(self.whole, wants_usage=wants_usage))


class Answering:
    """Answers requests with the experts of a model list.

    Args:
        decider: chooses the expert.
        upstream: calls the expert.
        writer: stores every attempt.
        rows: makes the rows of the log.
        called: the models that the experts call.
        counters: metrics.
        limits: rate limits of the models.
        read: what says whether two answers of a cascade agree, of the text of an answer.
    """

    def __init__(
        self,
        decider: Decider,
        upstream: Upstream,
        writer: LogWriter,
        rows: LogRows,
        called: CalledModels,
        counters: Counters,
        limits: RateLimits,
        read: Callable[[str], str | None],
    ) -> None:
        self._decider, self._upstream, self._writer = decider, upstream, writer
        self._rows, self._called, self._counters = rows, called, counters
        self._limits, self._read = limits, read

    async def start(self, request: ChatRequest) -> Started:
        """Answer a request, or start a stream: its first chunk has arrived and its decision is in the log.

        Args:
            request: the request.

        Raises:
            BadRequestError: the model is neither `auto` nor an expert.
            RouterError: the router needs a group and the request has none.
            RefusedError: the expert rejected the request itself.
            NoAnswerError: every expert failed.
        """
        if request.model != AUTO and request.model not in self._called.models:
            known = ", ".join([AUTO, *self._called.models])
            raise BadRequestError("model", f"{request.model!r} is unknown; use one of {known}")
        failed: dict[str, str] = {}
        asked: dict[str, Started] = {}  # by a cascade policy
        previous: str | None = None
        arrived = time.perf_counter()
        while True:
            began = time.perf_counter()
            decision = None
            if request.model == AUTO:
                decision = self._decide(request, failed, asked, began - arrived)
            if decision is not None and decision.returns is not None:
                returned = asked[self._called.answered_by(decision.returns)]
                return returned.streamed(request.wants_usage) if request.stream else returned
            expert = request.model if decision is None else decision.expert
            if expert in failed:
                raise NoAnswerError(failed)
            self._counters.decided(decision, time.perf_counter() - began)
            attempt = _Attempt(uuid.uuid4().hex, expert, decision, previous, began, further=bool(asked))
            model = self._called.call(expert).model
            attempt.waits = self._decider.is_full(model)
            try:
                with ExitStack() as in_flight:  # closed when the answer ends, also on an error
                    attempt.call = in_flight.enter_context(self._decider.queues.request(model))
                    answers = {name: each.whole for name, each in asked.items() if each.whole is not None}
                    sent = self._called.request(expert, request, answers)
                    started = await self._call(attempt, request, sent, in_flight)
                if decision is None or not decision.cascades:
                    return started
                asked[expert], previous = started, attempt.id
            except (Exception, asyncio.TimeoutError) as error:
                failure = failure_of(error)
                await self._log(attempt, request, "failed", error=failure.failed, tokens=attempt.tokens)
                rejected = not failure.again and not failure.permanent and not asked
                if rejected:  # the request itself is wrong, or filtered: do not call other experts
                    status = getattr(error, "status_code", None)
                    raise RefusedError(status if isinstance(status, int) else 400, failure.failed) from error
                self._back_off(expert, error, failure)
                failed[expert], previous = failure.failed, attempt.id
                if decision is None or len(failed) == len(self._decider.live.router.experts):
                    raise NoAnswerError(failed) from error

    def _decide(
        self, request: ChatRequest, failed: dict[str, str], asked: dict[str, Started], elapsed_s: float
    ) -> Decision:
        """Decide on a request that arrived `elapsed_s` seconds ago."""
        return self._decider.decide(
            request.prompt,
            request.group,
            failed,
            session=request.session,
            messages=request.messages,
            deadlines=request.deadlines.after(elapsed_s),
            answers={name: self._read_answer(name, each) for name, each in asked.items()},
            arrived=not failed and not asked,
        )

    def _read_answer(self, expert: str, started: Started) -> str | float | None:
        """Return what is read of an answer, or the verdict of a verifier."""
        assert started.whole is not None
        verdict = self._called.verdict(expert, started.whole)
        if verdict is not None:
            return verdict
        text = text_of(started.whole)
        return None if text is None else self._read(text)

    async def _call(
        self, attempt: _Attempt, request: ChatRequest, sent: ChatRequest, in_flight: ExitStack
    ) -> Started:
        """Call an expert; return its answer, or a stream, which then owns `in_flight`.

        Args:
            attempt: the call.
            request: the client's request.
            sent: the request to the expert's model.
            in_flight: counts the request.
        """
        expert = attempt.expert
        model = self._called.call(expert).model
        cascades = attempt.decision is not None and attempt.decision.cascades
        streams = request.stream and not cascades
        await self._wait_for_rate_limit(attempt, model, sent, streams)
        if not streams:
            answer = await self._upstream.answer(model, sent)
            tokens = self._count_tokens(attempt, sent, answer, text_of(answer))
            self._decider.succeeded(expert, request.session, request.messages)
            attempt.tokens = tokens  # also those of a reply without a verdict are paid for
            self._called.verdict(expert, answer)
            await self._log(attempt, request, "ok", tokens=tokens)
            return Started(decision=attempt.id, expert=expert, whole=answer)
        # The row is stored while the expert works: the first words need not wait for it.
        stored = self._writer.begin({**self._row(attempt, request), "status": "started"})
        attempt.is_logged = True
        chunks = self._upstream.stream(expert, request)
        first: list[dict[str, Any]] = []
        async for chunk in chunks:
            first.append(chunk)
            if _has_content(chunk):
                break
        else:
            if not any(map(tokens_of, first)):  # an empty answer has a token count
                raise ValueError("the stream has no content")
        attempt.first_s = time.perf_counter() - attempt.began
        if attempt.call is not None:
            self._decider.queues.first_token(attempt.call)
        self._decider.succeeded(expert, request.session, request.messages)
        await self._writer.is_stored(stored)
        stream = self._stream(attempt, request, first, chunks, in_flight.pop_all())
        await anext(stream)  # start the generator, so that closing it runs its `finally`
        return Started(decision=attempt.id, expert=expert, chunks=stream)

    async def _wait_for_rate_limit(
        self, attempt: _Attempt, model: str, sent: ChatRequest, streams: bool
    ) -> None:
        """Wait until a router's token buckets, else the rate limits of the model list, allow a request."""
        queues, tokens = self._decider.queues, self._limits.tokens(model, sent)
        wait_s = queues.wait_s(self._decider.live.router, model, tokens)
        if wait_s is None:
            wait_s, another_s = self._limits.take(model, sent)
            if another_s > 0.0:
                self._decider.limited(attempt.expert, another_s)
        else:
            self._limits.check(model, wait_s)
        if attempt.call is not None:
            queues.sent(attempt.call, tokens, wait_s, streamed=streams)
        if wait_s > 0.0:
            attempt.waits = True
            await asyncio.sleep(wait_s)

    def _back_off(self, expert: str, error: BaseException, failure: Reply) -> None:
        """Exclude an expert that failed, for its Retry-After or by the circuit breaker."""
        self._counters.failed(expert)
        if isinstance(error, OverLimitError | NoVerdictError):
            return
        retry_after = obeyed(failure.wait_s)
        if getattr(error, "status_code", None) == 429 and retry_after is not None:
            self._decider.limited(expert, retry_after)
        else:
            self._decider.failed(expert)

    async def _stream(
        self,
        attempt: _Attempt,
        request: ChatRequest,
        first: list[dict[str, Any]],
        chunks: AsyncGenerator[dict[str, Any], None],
        in_flight: ExitStack,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield an empty chunk, then the chunks of an answer; log how it ended."""
        text: list[str] = []
        status, error, usage = "gone", None, None
        try:
            yield {}
            async for chunk in _all(first, chunks):
                for choice in chunk.get("choices") or []:
                    content = (choice.get("delta") or {}).get("content")
                    text.append(content if isinstance(content, str) else "")
                usage = chunk if tokens_of(chunk) else usage
                if chunk.get("choices") or request.wants_usage:
                    yield chunk
            status = "ok"
        except (Exception, asyncio.TimeoutError) as failed:
            status, error = "cut", failure_of(failed).failed
            self._decider.failed(attempt.expert)
            self._counters.failed(attempt.expert)
            raise
        finally:
            in_flight.close()
            await chunks.aclose()
            tokens = self._count_tokens(attempt, request, usage or {}, "".join(text))
            self._writer.update(self._end(attempt, status, error, tokens))

    def _count_tokens(
        self, attempt: _Attempt, sent: ChatRequest, answer: dict[str, Any], text: str | None
    ) -> tuple[int, int]:
        """Return prompt and answer tokens; count them here if the model's server does not report them."""
        tokens = tokens_of(answer)
        if tokens is None:
            model = self._called.call(attempt.expert).model
            tokens = (self._upstream.count(model, sent.prompt), self._upstream.count(model, text or ""))
        if sent.model == AUTO:
            self._decider.answered(attempt.expert, tokens[1])
        return tokens

    async def _log(
        self,
        attempt: _Attempt,
        request: ChatRequest,
        status: str,
        error: str | None = None,
        tokens: tuple[int, int] | None = None,
    ) -> None:
        """Log an attempt at its end, and wait until it is stored."""
        end = self._end(attempt, status, error, tokens)
        if attempt.is_logged:
            self._writer.update(end)
        else:
            await self._writer.insert({**self._row(attempt, request), **end})

    def _row(self, attempt: _Attempt, request: ChatRequest) -> dict[str, Any]:
        return self._rows.row(
            attempt.id, request, attempt.expert, attempt.decision, previous=attempt.previous
        )

    def _end(
        self, attempt: _Attempt, status: str, error: str | None, tokens: tuple[int, int] | None
    ) -> dict[str, Any]:
        """Count the end of an attempt and return the columns that are known then."""
        seconds = time.perf_counter() - attempt.began
        price = self._called.prices[attempt.expert]
        usd = None if tokens is None else cost_of(price, *tokens)
        self._counters.ended(attempt.expert, status, seconds, usd, None if attempt.further else tokens)
        if status == "ok" and attempt.decision is not None and not attempt.waits:
            self._decider.measured(attempt.decision, seconds)
        if status == "ok" and attempt.call is not None and tokens is not None:
            self._decider.queues.answered(attempt.call, tokens, seconds, attempt.first_s)
        return {
            "id": attempt.id,
            "status": status,
            "error": error,
            "tokens_in": None if tokens is None else tokens[0],
            "tokens_out": None if tokens is None else tokens[1],
            "cost_usd": usd,
            "latency_s": seconds,
            "first_token_s": attempt.first_s,
        }


@dataclass
class _Attempt:
    """One call of one expert.

    Attributes:
        id: id of the decision.
        expert: name of the expert.
        decision: the router's decision; None if the client named the expert.
        previous: id of the attempt that failed before.
        began: `time.perf_counter` at the start.
        first_s: seconds until the first chunk of a stream.
        waits: the request waits for others, so its latency does not measure the expert's speed.
        tokens: prompt and answer tokens of a complete answer.
        further: another expert has answered the request already, for a cascade policy.
        is_logged: its row is in the log, or being written: the end is an update.
        call: the record of the request in flight.
    """

    id: str
    expert: str
    decision: Decision | None
    previous: str | None
    began: float
    first_s: float | None = None
    waits: bool = False
    tokens: tuple[int, int] | None = None
    further: bool = False
    is_logged: bool = False
    call: Call | None = None


def _has_content(chunk: dict[str, Any]) -> bool:
    """Return whether a chunk has a part of an answer; some servers send empty chunks first."""
    choices: list[Any] = chunk.get("choices") or []
    return any(
        any(value for name, value in choice["delta"].items() if name != "role")
        for choice in choices
        if isinstance(choice.get("delta"), dict)
    )


async def _all(
    first: list[dict[str, Any]], others: AsyncGenerator[dict[str, Any], None]
) -> AsyncGenerator[dict[str, Any], None]:
    for chunk in first:
        yield chunk
    async for chunk in others:
        yield chunk
