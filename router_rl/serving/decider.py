"""Decide which expert answers a request, with the exact probability of every choice."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from experts.llm.spending import cost_of
from experts.table.prices import Price

from ..routing import CircuitBreaker
from ..routing.policies.cascade_policy import CascadePolicy
from ..routing.policies.cascade_router import cascade_policy_of, cascade_state
from ..routing.policies.session_router import session_policy_of
from .adapted_router import AdaptedRouter
from .called_models import calls_of
from .chat_request import CHARACTERS_PER_TOKEN, NO_DEADLINES, Deadlines, estimated_tokens
from .decision import Decision
from .exploration import affordable, epsilon_greedy_propensities, mixed, softmax_propensities
from .learner import Learner
from .live_routers import Live, check_cascades, check_live
from .loaded_router import LoadedRouter, Ranking
from .served_conversations import Message, ServedConversations
from .served_queues import ServedQueues
from .sessions import Sessions, sticky_choice
from .thompson_propensities import thompson_propensities

__all__ = ["Decider"]

_TOKENS_OUT = 256.0  # expected answer tokens of an expert that has not answered yet
_DISCOUNT = 0.99  # of the running mean of answer tokens, per answer


class _Asked(NamedTuple):
    """A request, as `Decider.decide` gets it."""

    prompt: str
    group: str | None
    session: str | None
    turn: Sequence[Message]
    deadlines: Deadlines
    answers: Mapping[str, str | float | None]


class _Read(NamedTuple):
    """What a router makes of a request: its ranking, the experts that it may choose, and what it read."""

    ranking: Ranking
    allowed: list[bool]
    state: Tensor | None
    adapted: AdaptedRouter | None


class Decider:
    """Chooses experts by the live router; thread-safe.

    Args:
        live: the routers at the start.
        prices: prices of the models and of the experts, by name.
        explore: probability of a random expert instead of the router's choice.
        temperature: the random expert is drawn by a softmax of scores / temperature; None: uniformly.
        extra_usd: maximum expected extra cost of an explored request, US dollars; None: no limit.
        queues: the models' queues; None: requests in flight are not counted and conversations not recorded,
            and routers that read either are refused.
        sessions: the expert that answered each session last; None: sessions are not sticky.
        compute_weight: utility per unit of compute, for a cascade policy.

    Attributes:
        learner: an online learner that replaces the live router's scores; None for none.
        conversations: the turns of conversations, if a router reads them.

    Raises:
        InputError: an expert of the router has no price, so it is not in the model list.
    """

    def __init__(
        self,
        live: Live,
        prices: dict[str, Price],
        *,
        explore: float = 0.0,
        temperature: float | None = None,
        extra_usd: float | None = None,
        queues: ServedQueues | None = None,
        sessions: Sessions | None = None,
        compute_weight: float | None = None,
    ) -> None:
        self.breaker = CircuitBreaker(live.router.router)
        self.queues, self.sessions = queues or ServedQueues(), sessions or Sessions()
        self.learner: Learner | None = None
        self.conversations = ServedConversations()
        self._counts_queues = queues is not None
        self._live, self._prices, self._compute_weight = live, prices, compute_weight
        self._explore, self._temperature, self._extra_usd = explore, temperature, extra_usd
        self._random = random.Random()
        self._tokens_out = dict.fromkeys(live.router.experts, _TOKENS_OUT)
        self._calls = calls_of(live.router)
        self._lock = threading.Lock()
        self.check(live)

    @property
    def live(self) -> Live:
        """The routers that serve now."""
        return self._live

    def check(self, live: Live) -> None:
        """Check that all routers can be served together here.

        Raises:
            InputError: as for `check_live`.
        """
        check_live(live, self._live.router.experts, self._prices, counts=self._counts_queues)
        self.queues.check(live.routers)
        check_cascades(live, self._compute_weight, explores=bool(self._explore or self.sessions.bonus))

    def replace(self, live: Live) -> None:
        """Serve other routers from the next decision on.

        Raises:
            InputError: as for `check`.
        """
        self.check(live)
        self._live = live

    def reseed(self, seed: int) -> None:
        """Seed the random generator of the exploration."""
        self._random.seed(seed)

    def decide(
        self,
        prompt: str,
        group: str | None = None,
        failed: Collection[str] = (),
        *,
        session: str | None = None,
        messages: Sequence[Message] = (),
        deadlines: Deadlines = NO_DEADLINES,
        answers: Mapping[str, str | float | None] | None = None,
        arrived: bool = False,
    ) -> Decision:
        """Choose an expert.

        Args:
            prompt: text of the request.
            group: task or subject of the request, if the router reads it.
            failed: experts that failed on this request.
            session: name of the conversation.
            messages: the whole prompt, which session policies read; empty: the prompt is the only message.
            deadlines: when the request is late.
            answers: what was read of the answers to this request so far, by expert, for a cascade policy; the
                verdict in [0, 1] of a verifier.
            arrived: count the request as an arrival.

        Raises:
            RouterError: the router needs a group and there is none.
        """
        if arrived:
            self.queues.arrived()
        turn = messages or [{"role": "user", "content": prompt}]
        asked = _Asked(prompt, group, session, turn, deadlines, answers or {})
        live = self._live
        names = live.router.experts
        waiting = self._waiting(asked)
        barred = {*failed, *waiting}
        excluded = {
            **dict.fromkeys(waiting, "follows an answer"),
            **self.breaker.excluded(),
            **dict.fromkeys(failed, "failed on this request"),
        }
        read = [self._read(each, asked, barred, excluded) for each in live.routers]
        digests = [each.digest for each in live.routers]
        if self.learner is not None:
            learned = self.learner.ranked(live.router, read[0].ranking)
            digests[0] += "" if learned is read[0].ranking else f"+{self.learner.name}"
            read[0] = read[0]._replace(ranking=learned)
        read = [each._replace(ranking=self._sticky(each, names, session)) for each in read]
        expected = [self._expected_usd(name, prompt) for name in names]
        own = self._propensities(read[0], expected)
        others = own if live.canary is None else self._propensities(read[1], expected)
        probabilities = own if live.canary is None else mixed(own, others, live.fraction)
        with self._lock:
            by = int(live.canary is not None and self._random.random() < live.fraction)
            chosen = self._draw((own, others)[by])
        cascade = cascade_policy_of(live.router.router)
        return Decision(
            expert=names[chosen],
            router=digests[by],
            propensities=dict(zip(names, map(float, probabilities), strict=True)),
            scores=dict(zip(names, map(float, read[by].ranking.scores), strict=True)),
            expected_usd=dict(zip(names, expected, strict=True)),
            excluded={
                name: excluded.get(name, "not allowed by the router")
                for name, is_allowed in zip(names, read[by].allowed, strict=True)
                if not is_allowed
            },
            features=read[0].ranking.features,
            pipeline=live.router.pipeline,
            shadow=None if live.shadow is None else (live.shadow.digest, names[read[-1].ranking.best]),
            predicted=tuple(
                (each.adapted, each.adapted.predicted(torch.from_numpy(each.ranking.features), chosen))
                for each in read
                if each.adapted is not None
            ),
            cascades=cascade is not None,
            returns=None if cascade is None or not answers else _returned(cascade, read[0]),
        )

    def _waiting(self, asked: _Asked) -> list[str]:
        """Return the experts that follow an answer, if nothing is answered yet."""
        follow = (name for name, call in self._calls.items() if call.sample > 1 or call.verifies is not None)
        return [] if asked.answers else list(follow)

    def _read(
        self, loaded: LoadedRouter, asked: _Asked, barred: Collection[str], excluded: Collection[str]
    ) -> _Read:
        """Return what a router makes of a request.

        Args:
            loaded: the router.
            asked: the request.
            barred: experts that cannot answer it.
            excluded: experts that are not chosen, those that back off included.
        """
        mask = self.breaker.mask(set(barred), loaded.router)
        adapted, servers = self.queues.adapted(loaded), self.queues.servers(loaded)
        conversation, cascade = session_policy_of(loaded.router), cascade_policy_of(loaded.router)
        state: Tensor | None = None
        if adapted is not None:
            state = self.queues.state(adapted, excluded, asked.deadlines.last)
        elif servers is not None:
            tokens = estimated_tokens(asked.turn)
            state = self.queues.server_state(servers, excluded, asked.deadlines, tokens)
        elif conversation is not None:
            state = self.conversations.state(conversation, asked.session, asked.turn)
        elif cascade is not None:
            state = cascade_state(cascade, asked.answers, self._compute_weight or 0.0, mask)
        current = loaded if adapted is None else adapted.current
        ranking = current.rank(asked.prompt, asked.group, mask, state)
        return _Read(ranking, mask.tolist(), state, adapted)

    def answered(self, expert: str, tokens_out: int) -> None:
        """Record the length of an expert's answer, for expected costs.

        Args:
            expert: name of the expert.
            tokens_out: number of tokens of the answer.
        """
        with self._lock:
            old = self._tokens_out[expert]
            self._tokens_out[expert] = _DISCOUNT * old + (1.0 - _DISCOUNT) * tokens_out

    def succeeded(self, expert: str, session: str | None, messages: Sequence[Message] = ()) -> None:
        """Record that an expert answers.

        Args:
            expert: name of the expert.
            session: name of the conversation, whose prompt cache the expert has now.
            messages: the whole prompt.
        """
        self.sessions.answered(session, expert)
        if any(session_policy_of(each.router) is not None for each in self._live.routers):
            self.conversations.answered(session, expert, messages)
        for each in self._calling(expert):
            self.breaker.succeeded(each)

    def failed(self, expert: str) -> None:
        """Record that an expert failed; it backs off."""
        for each in self._calling(expert):
            self.breaker.failed(each)

    def limited(self, expert: str, seconds: float) -> None:
        """Record that an expert is rate limited for a number of seconds."""
        for each in self._calling(expert):
            self.breaker.limited(each, seconds)

    def measured(self, decision: Decision, seconds: float) -> None:
        """Update queue routers with the latency of an answer that did not wait for other requests.

        Args:
            decision: the decision whose expert answered.
            seconds: latency of the answer.
        """
        chosen = list(decision.propensities).index(decision.expert)
        for queues, predicted in decision.predicted:
            queues.measured(chosen, seconds, predicted)

    def is_full(self, expert: str) -> bool:
        """Return whether a request to a model would wait for others; False if its replicas are unknown."""
        replicas = self.queues.replicas(self._reader(), expert)
        return replicas is not None and self.queues.in_flight(expert) >= replicas

    def queue_status(self) -> dict[str, dict[str, Any]]:
        """Return the queue of each model by name, as JSON.

        `in_flight`: requests without an answer yet. `waiting`: those beyond the model's replicas, or those
        that wait for its rate limits if the router reads APIs; null if neither is known. `excluded`: the
        reason why the model is not chosen; null if it may be.
        """
        reader = self._reader()
        excluded = {self._model(name): reason for name, reason in self.breaker.excluded().items()}
        status: dict[str, dict[str, Any]] = {}
        for name in dict.fromkeys(map(self._model, self._prices)):
            count, waiting = self.queues.in_flight(name), self.queues.waiting(reader, name)
            status[name] = {"in_flight": count, "waiting": waiting, "excluded": excluded.get(name)}
        return status

    def _model(self, expert: str) -> str:
        return self._calls[expert].model if expert in self._calls else expert

    def _calling(self, expert: str) -> list[str]:
        """Return the router's experts that call the same model; the list may have further models."""
        return [name for name, call in self._calls.items() if call.model == self._model(expert)]

    def _reader(self) -> LoadedRouter:
        """Return the first router that reads queues or servers, or the live one."""
        live, queues = self._live, self.queues
        reads = (each for each in live.routers if queues.adapted(each) or queues.servers(each))
        return next(reads, live.router)

    def _sticky(self, read: _Read, names: Sequence[str], session: str | None) -> Ranking:
        """Return the ranking with the bonus for the expert that has the session's prompt cache."""
        ranking, holder = read.ranking, self.sessions.holder(session)
        cached = names.index(holder) if holder in names else None
        best = sticky_choice(ranking.best, ranking.scores.tolist(), read.allowed, cached, self.sessions.bonus)
        if cached is None or ranking.deviation is None:
            return ranking._replace(best=best)
        scores = ranking.scores.copy()  # Thompson sampling draws with the bonus
        scores[cached] += self.sessions.bonus
        return ranking._replace(best=best, scores=scores)

    def _propensities(self, read: _Read, expected: Sequence[float]) -> np.ndarray:
        ranking = read.ranking
        cheap = affordable(expected, ranking.best, self._extra_usd)
        may = [is_allowed and is_cheap for is_allowed, is_cheap in zip(read.allowed, cheap, strict=True)]
        if self._temperature is None:
            explored = epsilon_greedy_propensities(ranking.best, may, 1.0)
        else:
            explored = softmax_propensities(ranking.best, may, ranking.scores, self._temperature)
        if ranking.deviation is None:
            unexplored = epsilon_greedy_propensities(ranking.best, may, 0.0)
        else:
            may[ranking.best] = True
            unexplored = thompson_propensities(ranking.scores, ranking.deviation, may)
        return mixed(unexplored, explored, self._explore)

    def _draw(self, probabilities: np.ndarray) -> int:
        return self._random.choices(range(len(probabilities)), weights=probabilities.tolist())[0]

    def _expected_usd(self, expert: str, prompt: str) -> float:
        tokens_in = len(prompt) // CHARACTERS_PER_TOKEN + 1
        return cost_of(self._prices[expert], tokens_in, round(self._tokens_out[expert]))


def _returned(policy: CascadePolicy, read: _Read) -> str | None:
    """Return the expert whose answer a cascade policy returns; None if it asks another one."""
    assert read.state is not None
    with torch.inference_mode():
        features = torch.from_numpy(read.ranking.features).unsqueeze(0)
        step = policy.decide(torch.cat([features, read.state], dim=-1))
    return None if step.answer[0] < 0 else policy.experts[int(step.answer[0])]
