"""Decide which expert answers a request, with the exact probability of every choice."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
from .exploration import affordable, epsilon_greedy_propensities, mixed, softmax_propensities
from .learner import Learner
from .live_routers import Live, check_cascades, check_live
from .loaded_router import LoadedRouter, Ranking
from .served_conversations import Message, ServedConversations
from .served_queues import ServedQueues
from .sessions import Sessions, sticky_choice
from .thompson_propensities import thompson_propensities

__all__ = ["Decider", "Decision"]

_TOKENS_OUT = 256.0  # expected answer tokens of an expert that has not answered yet
_DISCOUNT = 0.99  # of the running mean of answer tokens, per answer


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """The choice of an expert for a request, and what it was based on.

    Attributes:
        expert: name of the expert.
        router: digest of the router (the canary's, if it decided), and `+linucb` or `+thompson` if it learns.
        propensities: probability of each expert, by name; sums to 1.
        scores: logit of each expert, by name.
        expected_usd: expected cost of each expert, by name, US dollars.
        excluded: reason for each expert that could not be chosen, by name.
        features: [D] float32, the live router's features of the prompt.
        pipeline: digest of the text pipeline that computed the features.
        shadow: digest of the shadow router and its choice; None without one.
        predicted: seconds that each queue router predicts for the chosen expert's answer.
        cascades: whether a cascade policy decided, which decides again after the answer.
        returns: the expert whose answer the cascade policy returns; None: it asks `expert`.
    """

    expert: str
    router: str
    propensities: dict[str, float]
    scores: dict[str, float]
    expected_usd: dict[str, float]
    excluded: dict[str, str]
    features: np.ndarray
    pipeline: str
    shadow: tuple[str, str] | None
    predicted: tuple[tuple[AdaptedRouter, float], ...] = ()
    cascades: bool = False
    returns: str | None = None

    @property
    def propensity(self) -> float:
        """Probability of the chosen expert."""
        return self.propensities[self.expert]


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
        live = self._live
        names, routers = live.router.experts, live.routers
        # Nothing can follow what was not answered.
        waiting = [
            name
            for name, call in self._calls.items()
            if (call.sample > 1 or call.verifies is not None) and not answers
        ]
        excluded = {
            **dict.fromkeys(waiting, "follows an answer"),
            **self.breaker.excluded(),
            **dict.fromkeys(failed, "failed on this request"),
        }
        expected = [self._expected_usd(name, prompt) for name in names]
        digests = [each.digest for each in routers]
        masks = [self.breaker.mask({*failed, *waiting}, each.router) for each in routers]
        adapted = [self.queues.adapted(each) for each in routers]
        turn = messages or [{"role": "user", "content": prompt}]
        rankings: list[Ranking] = []
        states: list[Tensor | None] = []
        for loaded, queues, mask in zip(routers, adapted, masks, strict=True):
            state = None if queues is None else self.queues.state(queues, excluded, deadlines.last)
            servers = self.queues.servers(loaded)
            if servers is not None:
                state = self.queues.server_state(servers, excluded, deadlines, estimated_tokens(turn))
            conversation, cascade = session_policy_of(loaded.router), cascade_policy_of(loaded.router)
            if conversation is not None:
                state = self.conversations.state(conversation, session, turn)
            if cascade is not None:
                state = cascade_state(cascade, answers or {}, self._compute_weight or 0.0, mask)
            current = loaded if queues is None else queues.current
            rankings.append(current.rank(prompt, group, mask, state))
            states.append(state)
        if self.learner is not None:
            learned = self.learner.ranked(live.router, rankings[0])
            digests[0] += "" if learned is rankings[0] else f"+{self.learner.name}"
            rankings[0] = learned
        allowed: list[list[bool]] = [mask.tolist() for mask in masks]
        rankings = [
            self._sticky(ranking, names, may, session) for ranking, may in zip(rankings, allowed, strict=True)
        ]
        acting = list(zip(rankings, allowed, strict=True))[: 1 if live.canary is None else 2]
        per_router = [self._propensities(ranking, may, expected) for ranking, may in acting]
        probabilities, by = per_router[0], 0
        if live.canary is not None:
            probabilities = mixed(per_router[0], per_router[1], live.fraction)
        with self._lock:
            if live.canary is not None and self._random.random() < live.fraction:
                by = 1
            chosen = self._draw(per_router[by])
        cascade, returns = cascade_policy_of(live.router.router), None
        if cascade is not None and answers and states[0] is not None:
            returns = _returned(cascade, rankings[0].features, states[0])
        return Decision(
            expert=names[chosen],
            router=digests[by],
            propensities=dict(zip(names, map(float, probabilities), strict=True)),
            scores=dict(zip(names, map(float, rankings[by].scores), strict=True)),
            expected_usd=dict(zip(names, expected, strict=True)),
            excluded={
                name: excluded.get(name, "not allowed by the router")
                for name, is_allowed in zip(names, allowed[by], strict=True)
                if not is_allowed
            },
            features=rankings[0].features,
            pipeline=live.router.pipeline,
            shadow=None if live.shadow is None else (live.shadow.digest, names[rankings[-1].best]),
            predicted=tuple(
                (queues, queues.predicted(torch.from_numpy(ranking.features), chosen))
                for queues, ranking in zip(adapted, rankings, strict=True)
                if queues is not None
            ),
            cascades=cascade is not None,
            returns=returns,
        )

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

    def _sticky(
        self, ranking: Ranking, names: Sequence[str], allowed: Sequence[bool], session: str | None
    ) -> Ranking:
        """Return the ranking with the bonus for the expert that has the session's prompt cache."""
        holder = self.sessions.holder(session)
        cached = names.index(holder) if holder in names else None
        best = sticky_choice(ranking.best, ranking.scores.tolist(), allowed, cached, self.sessions.bonus)
        if cached is None or ranking.deviation is None:
            return ranking._replace(best=best)
        scores = ranking.scores.copy()  # Thompson sampling draws with the bonus
        scores[cached] += self.sessions.bonus
        return ranking._replace(best=best, scores=scores)

    def _propensities(
        self, ranking: Ranking, allowed: Sequence[bool], expected: Sequence[float]
    ) -> np.ndarray:
        cheap = affordable(expected, ranking.best, self._extra_usd)
        may = [is_allowed and is_cheap for is_allowed, is_cheap in zip(allowed, cheap, strict=True)]
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


def _returned(policy: CascadePolicy, features: np.ndarray, state: Tensor) -> str | None:
    """Return the expert whose answer a cascade policy returns; None if it asks another one."""
    with torch.inference_mode():
        step = policy.decide(torch.cat([torch.from_numpy(features).unsqueeze(0), state], dim=-1))
    return None if step.answer[0] < 0 else policy.experts[int(step.answer[0])]
