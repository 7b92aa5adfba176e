"""Play an episode of the queueing environment by a served router or policy, which gets the same events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from two_models import sums

from envs.continuous_servers import ContinuousServers
from envs.queueing import QueueingCore
from envs.traces import Arrivals
from experts.llm.endpoints import Endpoint
from experts.table.prices import Price
from router_rl import QueueingProblem
from router_rl.routing import CircuitBreaker
from router_rl.serving.chat_request import Deadlines
from router_rl.serving.decider import Decider
from router_rl.serving.engine_metrics import EngineLoad
from router_rl.serving.live_routers import Live
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.served_apis import ApiLimits
from router_rl.serving.served_queues import ServedQueues
from router_rl.serving.served_servers import Call, RequestTokens

__all__ = ["NAMES", "PRICES", "SETTINGS", "STILL", "Clock", "Replay", "api_problem", "limits_of"]

NAMES = ("small", "large")
PRICES = {"small": Price(input=0.1, output=0.4), "large": Price(input=2.0, output=8.0)}
TIGHT = {
    "requests_per_minute": (20.0, 28.0),
    "input_per_minute": (9_000.0, 12_000.0),
    "output_per_minute": (1_000.0, 1_500.0),
    "burst_s": (20.0, 15.0),
    "failure_rate": 0.0,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "usual": {"failure_rate": 0.0},
    "tight": TIGHT,
    "requests_alone": {**TIGHT, "input_per_minute": 0.0, "output_per_minute": 0.0},
    "stragglers": {**TIGHT, "straggler_rate": (0.3, 0.1)},
    "failures": {**TIGHT, "failure_rate": (0.2, 0.1)},
    "large_requests": {**TIGHT, "input_per_minute": 3_000.0, "burst_s": 5.0},
    "outages": {**TIGHT, "burst_s": 60.0},
}
STILL = [4, 5, *range(6, 12), 20, 21]  # down, deadline, value, gaps, budget, tokens, first deadline


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def api_problem(servers: str = "api", **options: Any) -> QueueingProblem:
    """Return a problem of two models with prompts, whose trace has the lengths of prompts and answers."""
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.integers(20, 600, 400), rng.integers(2, 90, 400)], axis=1).astype(float)
    trace = Arrivals(name="made", arrival_s=rng.exponential(1.0, 400).cumsum(), tokens=tokens)
    settings: dict[str, Any] = {"loads": 1.6, "window": 80, "episodes": 4, "values": (1.0, 1.0)}
    deadlines: dict[str, Any] = {"deadlines": (1.0, 3.0), "first_deadlines": (0.3, 0.8)}
    return QueueingProblem(sums(), servers=servers, trace=trace, **{**settings, **deadlines, **options})


def limits_of(problem: QueueingProblem) -> dict[str, ApiLimits]:
    """Return the limits of the training, as a model list would declare them."""
    options = problem.config.api.of(len(problem.experts))
    names = ("requests_per_minute", "input_per_minute", "output_per_minute")
    limits: dict[str, ApiLimits] = {}
    for at, expert in enumerate(problem.experts):
        own: dict[str, Any] = {name: options[name][at] or None for name in names}
        limits[expert] = ApiLimits.of(Endpoint(name=expert, model="openai/x", **own))
    return limits


class Replay:
    """Plays an episode of the environment by the decisions of a served router, which gets the same events."""

    def __init__(self, problem: QueueingProblem, loaded: LoadedRouter, core: QueueingCore) -> None:
        self.problem, self.loaded, self.core, self.clock = problem, loaded, core, Clock()
        self.began = self.clock.now
        self.queues = ServedQueues(limits=limits_of(problem), metrics=NAMES, clock=self.clock)
        self.decider = Decider(Live(loaded), PRICES, queues=self.queues)
        self.decider.breaker = CircuitBreaker(loaded.router, clock=self.clock)
        self.states: list[torch.Tensor] = []
        for name in ("state", "server_state"):
            setattr(self.queues, name, self._recorded(getattr(self.queues, name)))
        self.flying: list[tuple[float, Call, ExitStack, tuple[Any, ...] | None]] = []
        self.open: dict[int, tuple[Call, ExitStack, tuple[Any, ...], float]] = {}  # at engines
        self.outages = [
            (float(fails), float(returns), name)
            for at, name in enumerate(loaded.experts)
            for fails, returns in zip(*(part[0, at] for part in core.state.episodes.outages[:2]), strict=True)
        ]

    def step(self) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Return the observation, the served one and the served decision; move both on by a request.

        Both observations are [1, O] float32.
        """
        state, episodes = self.core.state, self.core.state.episodes
        at, now = int(state.step[0]), float(self.core.now[0])
        observation = self.core.observation()
        self._end(now)
        self.clock.now = self.began + now
        for fails, returns, name in self.outages:
            if fails <= now < returns:
                self.decider.limited(name, returns - now)
        prompts = self.problem.table.part("test").prompt
        assert prompts is not None
        prompt = str(prompts[int(episodes.row[0, at])])
        messages = [{"role": "user", "content": prompt}]
        if self.problem.lengths is not None:
            length = round(4 * float(episodes.tokens[0, at, 0, 0]))  # estimated tokens: characters / 4
            messages.insert(0, {"role": "system", "content": "x" * (length - len(prompt))})
        deadlines = Deadlines(float(episodes.deadline[0, at]), float(episodes.first_deadline[0, at]))
        decision = self.decider.decide(prompt, messages=messages, deadlines=deadlines, arrived=True)
        if at < self.core.config.window:
            expert = self.loaded.experts.index(decision.expert)
            send = self._send_to_queue if self.problem.lengths is None else self._send
            if self.problem.config.servers == "continuous":
                send = self._send_to_engine
            send(at, now, decision.expert, expert)
        served = torch.cat([torch.from_numpy(decision.features)[None], self.states[-1]], dim=-1)
        return observation, served, decision.expert

    def _end(self, now: float) -> None:
        """Tell the served queues what happened until now."""
        if self.problem.config.servers == "continuous":
            self._run_engines(now)
            return
        for event in sorted(each for each in self.flying if each[0] <= now):
            self.flying.remove(event)
            end, call, context, answer = event
            self.clock.now = self.began + end
            if answer is not None:
                self.queues.answered(call, *answer)
            context.close()

    def _run_engines(self, now: float) -> None:
        """Give the tokens that came in the environment, also in its steps in progress, and the loads."""
        state = self.core.state
        events: list[tuple[float, int, bool]] = []
        for at in self.open:
            first, finish = float(state.first[0, at]), float(state.finish[0, at])
            if first == first and self.open[at][0].first is None:
                events.append((first, at, False))
            if finish == finish:
                events.append((finish, at, True))
        for time, at, ends in sorted(events):
            call, context, tokens, arrived = self.open[at]
            self.clock.now = self.began + time
            if ends:
                first = float(state.first[0, at])
                self.queues.answered(call, tokens, time - arrived, first - arrived)
                context.close()
                del self.open[at]
            else:
                self.queues.first_token(call)
        self.clock.now = self.began + now
        servers = self.core.servers
        assert isinstance(servers, ContinuousServers)
        waiting, running = (each[0].tolist() for each in servers.counts(state))
        used = (state.servers.engine.used[0] / servers.room).tolist()
        for name, *load in zip(NAMES, running, waiting, used, strict=True):
            self.queues.reported(name, EngineLoad(*load), self.clock.now)

    def _send_to_engine(self, at: int, now: float, name: str, expert: int) -> None:
        """Send the request in both, to an engine that streams."""
        context = ExitStack()
        call = context.enter_context(self.queues.request(name))
        tokens = tuple(self.core.state.episodes.tokens[0, at, expert].tolist())
        assert self.queues.wait_s(self.loaded, name, RequestTokens(*tokens)) is None
        self.queues.sent(call, RequestTokens(*tokens), 0.0, streamed=True)
        self.core.step(torch.tensor([expert]))
        self.open[at] = call, context, tokens, now

    def _recorded(self, built: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """Return a function of the queues whose states are kept."""
        return lambda *a: self.states.append(built(*a)) or self.states[-1]

    def _send_to_queue(self, at: int, now: float, name: str, expert: int) -> None:
        """Send the request in both, to a queue."""
        context = ExitStack()
        call = context.enter_context(self.queues.request(name))
        self.core.step(torch.tensor([expert]))
        self.flying.append((float(self.core.state.finish[0, at]), call, context, None))

    def _send(self, at: int, now: float, name: str, expert: int) -> None:
        """Send the request in both; a call that fails in the environment is one that ends at once."""
        episodes = self.core.state.episodes
        tokens, luck = (part[0, at, expert].tolist() for part in (episodes.tokens, episodes.luck))
        rate = self.problem.config.api.of(len(NAMES))["failure_rate"][expert]
        fails = 0
        while luck[0] <= rate ** (fails + 1):
            fails += 1
        sent = RequestTokens(*tokens)
        for _ in range(fails):
            with self.queues.request(name) as call:
                self.queues.sent(call, sent, 0.0)
        context = ExitStack()
        call = context.enter_context(self.queues.request(name))
        wait_s = self.queues.wait_s(self.loaded, name, sent)
        assert wait_s is not None
        self.queues.sent(call, sent, wait_s)
        self.core.step(torch.tensor([expert]))
        first, finish = (float(part[0, at]) for part in (self.core.state.first, self.core.state.finish))
        self.flying.append((finish, call, context, (tuple(tokens), finish - now, first - now)))
