"""Rate-limited APIs: a client that waits in line for token buckets, request by request, agrees."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from envs import build_queueing
from envs.traces import Arrivals
from experts.llm.server_options import ApiOptions

SETTINGS = {
    "usual": {},
    "bursty": {"burst_s": (1.0, 5.0, 60.0), "requests_per_minute": (20.0, 40.0, 10.0)},
    "no_token_limits": {"input_per_minute": 0.0, "output_per_minute": 0.0, "burst_s": 2.0},
    "failures": {"failure_rate": (0.3, 0.0, 0.6), "straggler_rate": (0.2, 1.0, 0.0), "burst_s": 4.0},
    "large_requests": {"input_per_minute": 3_000.0, "burst_s": 2.0},
}


class Api:
    """One API; times are uptime."""

    def __init__(self, options):
        self.options = options
        limits = [
            options[name] / 60 for name in ("requests_per_minute", "input_per_minute", "output_per_minute")
        ]
        self.rates = [rate if rate > 0 else math.inf for rate in limits]
        self.levels = [rate * options["burst_s"] for rate in self.rates]
        self.now = self.last = 0.0

    def refill(self, now):
        for b, rate in enumerate(self.rates):
            if rate < math.inf:
                most = rate * self.options["burst_s"]
                self.levels[b] = min(self.levels[b] + rate * (now - self.now), most)
        self.now = now

    def call(self, now, tokens_in, tokens_out, luck):
        """When the call begins, its first token, and its end."""
        options = self.options
        self.refill(now)
        fails = 0
        while luck[0] <= options["failure_rate"] ** (fails + 1):
            fails += 1
        begin = max(now, self.last)
        for b, (need, rate) in enumerate(zip((1, tokens_in, tokens_out), self.rates, strict=True)):
            if rate == math.inf:
                continue
            needed = min((fails + 1) * need, rate * options["burst_s"])
            begin = max(begin, now + (needed - self.levels[b]) / rate)
            self.levels[b] -= (fails + 1) * need
        self.last = begin
        lost = sum(options["failure_s"] + options["backoff_s"] * 2**attempt for attempt in range(fails))
        factor = options["straggler_slowdown"] if luck[1] < options["straggler_rate"] else 1.0
        first = begin + lost + factor * (options["first_s"] + options["prefill_s"] * tokens_in)
        return begin, first, first + factor * options["token_s"] * (tokens_out - 1)

    def used(self, now):
        self.refill(now)
        pairs = zip(self.levels, self.rates, strict=True)
        return max(1 - level / (rate * self.options["burst_s"]) for level, rate in pairs if rate < math.inf)


def wall(outages, up):
    for fails, returns in outages:
        if up > fails:
            up += returns - fails
    return up


def up_of(outages, time):
    return time - sum(max(0.0, min(time, returns) - fails) for fails, returns in outages)


@pytest.mark.parametrize("mean_up", [0.0, 5.0])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_client_with_token_buckets_agrees(make_table, setting, mean_up):
    rng = np.random.default_rng(0)
    tokens = np.stack([rng.integers(1, 2_000, 300), rng.integers(1, 400, 300)], axis=1).astype(float)
    core = build_queueing(
        make_table(),
        3,
        arrivals=Arrivals(name="made", arrival_s=rng.exponential(1.0, 300).cumsum(), tokens=tokens),
        split=None,
        servers="api",
        api=ApiOptions(**SETTINGS[setting]),
        window=70,
        load=1.5,
        first_deadlines=(0.3,),
        miss_weight=0.25,
        mean_up=mean_up,
        mean_repair=2.0,
    )
    experts, features, episodes = core.experts, core.outcomes.features.shape[1], core.state.episodes
    actions = torch.from_numpy(rng.integers(0, experts, (70, 3)))
    observations, paid, earned = [], torch.zeros(3).double(), torch.zeros(3).double()
    for action in actions:
        observations.append(core.observation())
        step = core.step(action)
        paid += step.reward.double()
        earned += step.parts["quality"] - core.config.compute_weight * step.parts["compute"]
        assert not core.settle().any()
    options = core.config.api.of(experts)
    waited = 0
    for lane in range(3):
        spells = [
            list(zip(*(part[lane, e].tolist() for part in episodes.outages[:2]), strict=True))
            for e in range(experts)
        ]
        apis = [Api({name: options[name][e] for name in options}) for e in range(experts)]
        calls = [[] for _ in range(experts)]
        charge = 0.0
        for request, action in enumerate(actions[:, lane].tolist()):
            now = float(episodes.arrival[lane, request])
            ups = [up_of(spell, now) for spell in spells]
            waiting = [sum(begin > up for begin, _ in call) for call, up in zip(calls, ups, strict=True)]
            busy = [
                sum(begin <= up < end for begin, end in call) for call, up in zip(calls, ups, strict=True)
            ]
            used = [api.used(up) for api, up in zip(apis, ups, strict=True)]
            seen = observations[request][lane, features:]
            assert seen[: 2 * experts].tolist() == [*waiting, *busy]
            assert seen[3 * experts + 6 : 4 * experts + 6].tolist() == pytest.approx(used, abs=1e-5)
            luck = episodes.luck[lane, request, action].tolist()
            sizes = episodes.tokens[lane, request, action].tolist()
            begin, first, end = apis[action].call(ups[action], *sizes, luck)
            calls[action].append((begin, end))
            waited += begin > ups[action]
            first, end = wall(spells[action], first), wall(spells[action], end)
            assert float(core.first_tokens()[lane, request]) == pytest.approx(first - now, rel=1e-9)
            assert float(core.responses()[lane, request]) == pytest.approx(end - now, rel=1e-9)
            deadlines = episodes.deadline[lane, request], episodes.first_deadline[lane, request]
            over = [
                max(0.0, time - now - float(d)) / float(d)
                for time, d in zip((end, first), deadlines, strict=True)
            ]
            charge += 0.5 * sum(over) + 0.25 * any(over)
        assert float(paid[lane]) == pytest.approx(float(earned[lane]) - charge, rel=1e-5)
    assert waited > 10 or setting == "usual"
