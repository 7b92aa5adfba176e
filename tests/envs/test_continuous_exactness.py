"""Engines jump from change to change with the result of a loop over their steps in plain Python."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from envs import build_queueing
from envs.traces import Arrivals

INF = float("inf")


@dataclass
class Sequence:
    request: int
    tokens_in: int
    tokens_out: int
    generated: int = 0
    left: int = 0  # tokens to prefill

    @property
    def held(self):
        return self.tokens_in + self.generated


@dataclass
class Engine:
    """One engine, step by step."""

    options: dict
    outages: list
    clock: float = 0.0
    waiting: deque = field(default_factory=deque)
    decoding: list = field(default_factory=list)
    prefill: Sequence | None = None
    recent: list = field(default_factory=list)
    first: dict = field(default_factory=dict)
    finish: dict = field(default_factory=dict)
    arrival: dict = field(default_factory=dict)
    preempted: int = 0

    def add(self, sequence, up, arrival):
        if not (self.waiting or self.decoding or self.prefill):
            self.clock = max(self.clock, up)
        self.waiting.append(sequence)
        self.arrival[sequence.request] = arrival

    def used(self):
        prefill = self.prefill.held + 1 if self.prefill else 0
        return sum(each.held for each in self.decoding) + prefill

    def run(self, until):
        while self.clock < until and (self.waiting or self.decoding or self.prefill):
            self.step()

    def step(self):
        options = self.options
        full = False
        while self.used() + len(self.decoding) > options["kv_tokens"]:
            full = True
            self.preempted += 1
            last = self.prefill or max(self.decoding, key=lambda each: each.request)
            if last is self.prefill:
                self.prefill = None
            else:
                self.decoding.remove(last)
            self.waiting.appendleft(last)
        if not full and self.prefill is None and self.waiting and len(self.decoding) < options["max_seqs"]:
            head = self.waiting[0]
            if self.used() + len(self.decoding) + head.held + 1 <= options["kv_tokens"]:
                self.prefill = self.waiting.popleft()
                self.prefill.left = self.prefill.held
        chunk = min(self.prefill.left, options["chunk"]) if self.prefill else 0
        self.clock += (
            options["step_s"]
            + options["sequence_s"] * len(self.decoding)
            + options["context_s"] * sum(each.held for each in self.decoding)
            + options["prefill_s"] * chunk
        )
        now = wall(self.outages, self.clock)
        for each in self.decoding:
            each.generated += 1
        if self.prefill:
            self.prefill.left -= chunk
            if self.prefill.left == 0:
                if self.prefill.request not in self.first:
                    self.first[self.prefill.request] = now
                    self.recent[0] += (now - self.arrival[self.prefill.request] - self.recent[0]) / 8
                self.prefill.generated += 1
                self.decoding.append(self.prefill)
                self.prefill = None
        for each in [each for each in self.decoding if each.generated == each.tokens_out]:
            self.decoding.remove(each)
            self.finish[each.request] = now
            if each.tokens_out > 1:
                further = (now - self.first[each.request]) / (each.tokens_out - 1)
                self.recent[1] += (further - self.recent[1]) / 8

    def seen(self):
        todo = [*self.waiting, *([self.prefill] if self.prefill else [])]
        ahead = sum(each.held for each in self.waiting) + (self.prefill.left if self.prefill else 0)
        assert len(todo) >= 0
        return [
            len(self.waiting),
            len(self.decoding) + (self.prefill is not None),
            self.used() / self.options["kv_tokens"],
            ahead,
            *self.recent,
        ]


def wall(outages, up):
    """The wall time at an uptime."""
    for fails, returns in outages:
        if up > fails:
            up += returns - fails
    return up


def up_of(outages, time):
    """The uptime at a wall time."""
    return time - sum(max(0.0, min(time, returns) - fails) for fails, returns in outages)


SETTINGS = {
    "roomy": {"kv_tokens": 100_000, "max_seqs": 64, "chunk": 512},
    "few_seats": {"kv_tokens": 100_000, "max_seqs": (3, 5, 2), "chunk": 64},
    "small_cache": {"kv_tokens": (900, 700, 1200), "max_seqs": 64, "chunk": 100},
    "cut_prompts": {"kv_tokens": 120, "max_seqs": 8, "chunk": 64},
    "one_seat": {"kv_tokens": 600, "max_seqs": 1, "chunk": 8},
    "no_context_cost": {"context_s": 0.0, "kv_tokens": 800, "max_seqs": 16, "chunk": 4096},
}


def trace(seed=0, long=300, count=400):
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(1, long, count), rng.integers(1, 60, count)], axis=1)
    return Arrivals(name="made", arrival_s=rng.exponential(1.0, count).cumsum(), tokens=tokens.astype(float))


def built(make_table, setting, lanes=2, **options):
    table = replace(make_table(), tokens_out=np.array([[1.0, 1.5, 2.0]] * len(make_table())))
    settings = {
        "servers": "continuous",
        "continuous": {"step_s": (0.01, 0.02, 0.03), "sequence_s": 1e-4, **SETTINGS[setting]},
        "window": 80,
        "load": 1.5,
        "deadlines": (1.0, 4.0),
        "values": (1.0, 0.5),
        "first_deadlines": (0.5, 2.0),
        "miss_weight": 0.25,
        **options,
    }
    from experts.llm.server_options import ContinuousOptions

    settings["continuous"] = ContinuousOptions(**settings["continuous"])
    return build_queueing(table, lanes, arrivals=trace(), split=None, **settings)


@pytest.mark.parametrize("mean_up", [0.0, 3.0])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_loop_over_steps_agrees(make_table, setting, mean_up):
    core = built(make_table, setting, mean_up=mean_up, mean_repair=1.0)
    config, features = core.config, core.outcomes.features.shape[1]
    window, lanes, experts = config.window, core.lanes, core.experts
    actions = torch.from_numpy(np.random.default_rng(1).integers(0, experts, (window, lanes)))
    observations, paid, earned = [], torch.zeros(lanes).double(), torch.zeros(lanes).double()
    episodes = core.state.episodes
    for number, action in enumerate(actions):
        observations.append(core.observation())
        if number == window // 2:
            left = core.settle()
        step = core.step(action)
        paid += step.reward.double()
        value = episodes.value[:, number]
        earned += value * step.parts["quality"] - config.compute_weight * step.parts["compute"]
    assert step.terminated.all()
    observations = torch.stack(observations)
    each = config.continuous.of(experts)
    preempted = 0
    for lane in range(lanes):
        spells = [
            list(zip(*(part[lane, e].tolist() for part in episodes.outages[:2]), strict=True))
            for e in range(experts)
        ]
        engines = [
            Engine(
                {name: each[name][e] for name in each}, spells[e], recent=list(core.servers.usual[e].tolist())
            )
            for e in range(experts)
        ]
        for request in range(window):
            now = float(episodes.arrival[lane, request])
            for engine in engines:
                engine.run(up_of(engine.outages, now))
            seen = observations[request, lane]
            theirs = torch.tensor([engine.seen() for engine in engines])
            ours = torch.cat(
                [
                    seen[features : features + 2 * experts].reshape(2, experts),
                    seen[features + 3 * experts + 6 :][: 4 * experts].reshape(4, experts),
                ]
            ).T
            torch.testing.assert_close(ours[:, :5], theirs[:, :5].float(), rtol=1e-4, atol=1e-5)
            # Requests that finish in the same step enter this mean in another order.
            torch.testing.assert_close(ours[:, 5], theirs[:, 5].float(), rtol=0.1, atol=1e-3)
            chosen = int(actions[request, lane])
            tokens = episodes.tokens[lane, request, chosen].long().tolist()
            engines[chosen].add(Sequence(request, *tokens), up_of(engines[chosen].outages, now), now)
        for engine in engines:
            engine.run(INF)
            preempted += engine.preempted
        first, finish = (
            {k: v for e in engines for k, v in getattr(e, what).items()} for what in ("first", "finish")
        )
        order = range(window)
        np.testing.assert_allclose(core.state.first[lane, :window], [first[r] for r in order], rtol=1e-9)
        np.testing.assert_allclose(core.state.finish[lane, :window], [finish[r] for r in order], rtol=1e-9)
        arrival, deadline, value, early = (
            getattr(episodes, name)[lane, :window].numpy()
            for name in ("arrival", "deadline", "value", "first_deadline")
        )
        over = np.maximum(np.array([finish[r] for r in order]) - arrival - deadline, 0.0)
        first_over = np.maximum(np.array([first[r] for r in order]) - arrival - early, 0.0)
        missed = (over > 0) | (first_over > 0)
        assert (core.missed()[lane].numpy() == missed).all()
        charge = value * (0.5 * (over / deadline + first_over / early) + 0.25 * missed)
        assert paid[lane] == pytest.approx(float(earned[lane] - charge.sum()), rel=1e-5)
    if setting in ("small_cache", "no_context_cost"):
        assert preempted > 10
    assert left.isfinite().all()
