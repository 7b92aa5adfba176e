"""Decides which expert answers a request, and knows the exact probability of every choice."""

from __future__ import annotations

import random
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from experts import InputError
from experts.llm.spending import cost_of
from experts.table.prices import Price

from ..routing import CircuitBreaker
from .exploration import affordable, epsilon_greedy_propensities, mixed
from .learner import Learner
from .loaded_router import LoadedRouter, Ranking
from .thompson_propensities import thompson_propensities

__all__ = ["Decider", "Decision", "Live"]

_TOKENS_OUT = 256.0  # expected answer tokens of an expert that has not answered yet
_CHARACTERS_PER_TOKEN = 4
_MEMORY = 0.99  # discount of the running mean of answer tokens, per answer


@dataclass(frozen=True, eq=False)
class Live:
    """The routers of a moment; replaced as a whole, so that a decision never sees half of a change.

    Attributes:
        router: decides.
        canary: decides a fraction of the requests; None for none.
        fraction: of the requests that the canary decides.
        shadow: decides on every request without acting; None for none.
    """

    router: LoadedRouter
    canary: LoadedRouter | None = None
    fraction: float = 0.0
    shadow: LoadedRouter | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """Which expert answers a request, and why.

    Attributes:
        expert: name of the expert.
        router: digest of the router (the canary's, if it decided), and `+linucb` or `+thompson` if it learns.
        propensities: probability of each expert, by name; sums to 1.
        scores: logit of each expert, by name.
        expected_usd: expected cost of each expert, by name, US dollars.
        excluded: experts that could not be chosen, because they failed recently.
        features: [D] float32, what the live router read.
        pipeline: digest of the text pipeline that made the features.
        shadow: digest of the shadow router and its choice; None without one.
    """

    expert: str
    router: str
    propensities: dict[str, float]
    scores: dict[str, float]
    expected_usd: dict[str, float]
    excluded: tuple[str, ...]
    features: np.ndarray
    pipeline: str
    shadow: tuple[str, str] | None

    @property
    def propensity(self) -> float:
        """Probability of the choice."""
        return self.propensities[self.expert]


class Decider:
    """Chooses experts by the live router; thread-safe.

    Args:
        live: the routers at the start.
        prices: of the experts.
        explore: probability of a uniformly random expert.
        extra_usd: the highest expected extra cost of an explored request; None: no limit.

    Attributes:
        learner: decides in the place of the live router, from what it learned on top of it; None for none.

    Raises:
        InputError: an expert of the router has no price, so it is not in the model list.
    """

    def __init__(
        self,
        live: Live,
        prices: dict[str, Price],
        *,
        explore: float = 0.0,
        extra_usd: float | None = None,
    ) -> None:
        self.breaker = CircuitBreaker(live.router.router)
        self.learner: Learner | None = None
        self._live, self._prices = live, prices
        self._explore, self._extra_usd = explore, extra_usd
        self._random = random.Random()
        self._tokens_out = dict.fromkeys(live.router.experts, _TOKENS_OUT)
        self._lock = threading.Lock()
        self.check(live)

    @property
    def live(self) -> Live:
        """The routers of this moment."""
        return self._live

    def check(self, live: Live) -> None:
        """Check that all routers choose among the experts of the model list.

        Raises:
            InputError: names the router and the expert.
        """
        for field, each in (("router", live.router), ("canary", live.canary), ("shadow", live.shadow)):
            if each is None:
                continue
            missing = [name for name in each.experts if name not in self._prices]
            if missing:
                fix = "add it to the model list, under the name that it has in the table"
                raise InputError(field, str(each.folder), f"chooses {missing[0]}, which is no model", fix)
            if each.experts != self._live.router.experts:
                problem = f"has the experts {', '.join(each.experts)}"
                fix = f"use a router of {', '.join(self._live.router.experts)}"
                raise InputError(field, str(each.folder), problem, fix)

    def replace(self, live: Live) -> None:
        """Serve other routers from the next decision on.

        Raises:
            InputError: they have other experts.
        """
        self.check(live)
        self._live = live

    def reseed(self, seed: int) -> None:
        """Restart the random numbers of the exploration."""
        self._random.seed(seed)

    def decide(self, prompt: str, group: str | None = None, failed: Collection[str] = ()) -> Decision:
        """Choose an expert.

        Args:
            prompt: text of the request.
            group: its task or subject, where the router reads it.
            failed: experts that failed on this request.

        Raises:
            RouterError: the router needs a group and there is none.
        """
        live, may = self._live, self.breaker.mask(exclude=failed)
        names, allowed = live.router.experts, may.tolist()
        expected = [self._expected_usd(name, prompt) for name in names]
        rankings = [each.rank(prompt, group, may) for each in (live.router, live.canary) if each is not None]
        digest = live.router.digest
        if self.learner is not None:
            learned = self.learner.ranked(live.router, rankings[0])
            digest += "" if learned is rankings[0] else f"+{self.learner.name}"
            rankings[0] = learned
        per_router = [self._propensities(ranking, allowed, expected) for ranking in rankings]
        probabilities, by = per_router[0], 0
        if live.canary is not None:
            probabilities = mixed(per_router[0], per_router[1], live.fraction)
        with self._lock:
            if live.canary is not None and self._random.random() < live.fraction:
                by = 1
            chosen = self._drawn(per_router[by])
        if by == 1 and live.canary is not None:
            digest = live.canary.digest
        return Decision(
            expert=names[chosen],
            router=digest,
            propensities=dict(zip(names, map(float, probabilities), strict=True)),
            scores=dict(zip(names, map(float, rankings[by].scores), strict=True)),
            expected_usd=dict(zip(names, expected, strict=True)),
            excluded=tuple(name for name, is_allowed in zip(names, allowed, strict=True) if not is_allowed),
            features=rankings[0].features,
            pipeline=live.router.pipeline,
            shadow=_shadow_choice(live.shadow, prompt, group, may),
        )

    def answered(self, expert: str, tokens_out: int) -> None:
        """Remember how long an expert's answer was, for expected costs."""
        with self._lock:
            old = self._tokens_out[expert]
            self._tokens_out[expert] = _MEMORY * old + (1.0 - _MEMORY) * tokens_out

    def _propensities(
        self, ranking: Ranking, allowed: Sequence[bool], expected: Sequence[float]
    ) -> np.ndarray:
        cheap = affordable(expected, ranking.best, self._extra_usd)
        may = [one and two for one, two in zip(allowed, cheap, strict=True)]
        if ranking.deviation is None:
            return epsilon_greedy_propensities(ranking.best, may, self._explore)
        may[ranking.best] = True
        drawn = thompson_propensities(ranking.scores, ranking.deviation, may)
        return mixed(drawn, epsilon_greedy_propensities(ranking.best, may, 1.0), self._explore)

    def _drawn(self, probabilities: np.ndarray) -> int:
        return self._random.choices(range(len(probabilities)), weights=probabilities.tolist())[0]

    def _expected_usd(self, expert: str, prompt: str) -> float:
        tokens_in = len(prompt) // _CHARACTERS_PER_TOKEN + 1
        return cost_of(self._prices[expert], tokens_in, round(self._tokens_out[expert]))


def _shadow_choice(
    shadow: LoadedRouter | None, prompt: str, group: str | None, may: Tensor
) -> tuple[str, str] | None:
    """Return the digest and the choice of a router that does not act."""
    if shadow is None:
        return None
    return shadow.digest, shadow.experts[shadow.rank(prompt, group, may).best]
