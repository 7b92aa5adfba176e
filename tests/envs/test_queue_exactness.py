"""Queues are event-exact: a textbook simulation, a heap of events in plain Python, agrees to the bit."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from envs import build_queueing
from envs.outages import Outages

FINISH, FAIL, RETURN, ARRIVE = range(4)  # in this order where they fall together


@dataclass
class Batch:
    """Requests that a replica works on; `remaining` seconds are left as of `since`."""

    requests: list
    remaining: float
    since: float
    version: int = 0


@dataclass
class Expert:
    replicas: int
    down: bool = False
    waiting: deque = field(default_factory=deque)
    running: list = field(default_factory=list)


def simulate(arrival, work, chosen, replicas, batch, slope, outages):
    """Finish of every request.

    Args:
        arrival: times, non-decreasing.
        work: seconds that each request's expert works on it outside a batch.
        chosen: the expert of each request.
        replicas: of each expert.
        batch, slope: as `QueueingConfig` has them.
        outages: for each expert, pairs of a failure and a recovery.

    Returns:
        finish of each request; and what each arrival saw of every expert: waiting, replicas taken, down.
    """
    experts = [Expert(count) for count in replicas]
    finish, seen = [None] * len(arrival), []
    order = itertools.count()
    events = [(time, ARRIVE, next(order), request, 0) for request, time in enumerate(arrival)]
    for e, pairs in enumerate(outages):
        for fails, returns in pairs:
            events += [(fails, FAIL, next(order), e, 0), (returns, RETURN, next(order), e, 0)]
    heapq.heapify(events)
    owner = {}

    def go_on(expert, one, now):
        one.since = now
        if not expert.down:
            one.version += 1
            key = next(order)
            owner[key] = (expert, one)
            heapq.heappush(events, (now + one.remaining, FINISH, key, key, one.version))

    def take(expert, now):
        while expert.waiting and len(expert.running) < expert.replicas:
            members = [expert.waiting.popleft() for _ in range(min(batch, len(expert.waiting)))]
            one = Batch(members, max(work[m] for m in members) * (1 + slope * (len(members) - 1)), now)
            expert.running.append(one)
            go_on(expert, one, now)

    while events:
        now, kind, _, what, version = heapq.heappop(events)
        if kind == FINISH:
            expert, one = owner[what]
            if one.version != version:
                continue
            expert.running.remove(one)
            for request in one.requests:
                finish[request] = now
            take(expert, now)
        elif kind == FAIL:
            expert = experts[what]
            for one in expert.running:
                one.remaining -= now - one.since
                one.version += 1
            expert.down = True
        elif kind == RETURN:
            expert = experts[what]
            expert.down = False
            for one in expert.running:
                go_on(expert, one, now)
        else:
            seen.append([(len(e.waiting), len(e.running), e.down) for e in experts])
            expert = experts[chosen[what]]
            expert.waiting.append(what)
            take(expert, now)
    return finish, seen


def eighths(core, rng):
    """Round everything of an episode to eighths of a second, so that sums of floats are exact."""
    state = core.state
    lanes, requests = state.episodes.arrival.shape
    arrival = torch.from_numpy(rng.integers(0, 9, (lanes, requests)) / 8).cumsum(-1)
    arrival -= arrival[:, :1].clone()
    core.servers.service = (core.servers.service * 8).ceil() / 8
    count = state.episodes.outages.fails.shape[-1]
    spells = rng.integers(1, 60, (lanes, core.experts, count, 2)) / 8
    changes = torch.from_numpy(spells).flatten(-2).cumsum(-1).reshape(spells.shape)
    outages = Outages.of(changes[..., 0].contiguous(), changes[..., 1].contiguous())
    core.state = state._replace(episodes=state.episodes._replace(arrival=arrival, outages=outages))
    return core


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("replicas", [1, (1, 2, 3)])
@pytest.mark.parametrize("mean_up", [0.0, 3.0])
def test_a_heap_of_events_agrees_exactly(make_table, batch, replicas, mean_up):
    rng = np.random.default_rng(batch)
    core = build_queueing(
        make_table(),
        5,
        window=60,
        batch=batch,
        batch_slope=0.25,
        replicas=replicas,
        mean_up=mean_up,
        deadlines=(1.0, 4.0),
        values=(1.0, 0.5),
        miss_weight=0.25,
        load=2.0,
    )
    eighths(core, rng)
    state, config = core.state, core.config
    features = core.outcomes.features.shape[1]
    actions = torch.from_numpy(rng.integers(0, 3, (60, 5)))
    seen, paid = [], torch.zeros(5, dtype=torch.float64)
    earned = torch.zeros(5, dtype=torch.float64)
    for action in actions:
        seen.append(core.observation()[:, features : features + 9].reshape(5, 3, 3).transpose(1, 2))
        step = core.step(action)
        paid += step.reward.double()
        value = state.episodes.value[torch.arange(5), core.state.step - 1]
        earned += value * step.parts["quality"] - config.compute_weight * step.parts["compute"]
    assert step.terminated.all()
    for lane in range(5):
        arrival = state.episodes.arrival[lane, :60].tolist()
        chosen = actions[:, lane].tolist()
        row = state.episodes.row[lane, :60]
        work = core.servers.service[row, actions[:, lane]].tolist()
        outages = [
            list(zip(*(part[lane, e].tolist() for part in state.episodes.outages[:2]), strict=True))
            for e in range(3)
        ]
        counts = core.replicas.tolist()
        finish, watched = simulate(arrival, work, chosen, counts, batch, 0.25, outages)
        assert core.state.finish[lane, :60].tolist() == finish
        assert torch.stack([one[lane] for one in seen]).tolist() == np.array(watched, dtype=float).tolist()
        deadline = state.episodes.deadline[lane, :60].numpy()
        late = np.maximum(np.array(finish) - np.array(arrival) - deadline, 0.0)
        suffered = state.episodes.value[lane, :60].numpy() * (0.5 * late / deadline + 0.25 * (late > 0))
        assert paid[lane] == pytest.approx(float(earned[lane] - suffered.sum()), rel=1e-5)
