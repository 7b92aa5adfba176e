"""The methods of caching: rules of thumb, tuned; the clairvoyant bound; and the cross-entropy method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from envs.caching import CachingCore

from ..decisions.kind import Case, EnvMethod, Tell
from ..routing.caching import ANSWER_INPUTS, KEEP_INPUTS, CachingPolicy
from .problem import CachingProblem
from .simulate import Weights, utilities

__all__ = ["METHODS", "CachedPolicy"]

_TUNING, _STREAMS = 400_000, 24  # streams of the validation rows that rules are tuned on
_POPULATION, _ELITE, _GENERATIONS, _LANES = 24, 6, 16, 8
_BONUSES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_SHARES = (0.0, 0.03, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5)  # of the wait weight, that a wait counts when choosing


@dataclass(frozen=True, kw_only=True)
class CachedPolicy:
    """A fitted method.

    Attributes:
        begin: what it does in an episode of a core, observations to actions.
        module: what is exported, if there is one.
    """

    begin: Callable[[CachingCore], Callable[[Tensor], Tensor]]
    module: CachingPolicy | None = None


def _served(policy: CachingPolicy) -> CachedPolicy:
    return CachedPolicy(begin=lambda core: lambda seen: policy.actions(seen)[0], module=policy)


def _weights(answer: dict[str, float], keep: dict[str, float]) -> tuple[list[float], list[float]]:
    return [answer.get(name, 0.0) for name in ANSWER_INPUTS], [keep.get(name, 0.0) for name in KEEP_INPUTS]


def _set(
    policy: CachingPolicy, answer: Sequence[float] | Tensor, keep: Sequence[float] | Tensor
) -> CachingPolicy:
    policy.answer.copy_(torch.as_tensor(answer))
    policy.keep.copy_(torch.as_tensor(keep))
    return policy


def _tuned(
    problem: CachingProblem, share: float, tried: Sequence[tuple[list[float], list[float]]]
) -> CachingPolicy:
    """The best of some weights on validation rows."""
    policy = problem.policy(share)
    weights = Weights(*(torch.tensor(part) for part in zip(*tried, strict=True)))
    found = utilities(problem, share, "validation", policy, weights, streams=_STREAMS, seed=_TUNING)
    best = int(found.argmax())
    return _set(policy, weights.answer[best], weights.keep[best])


Rule = Callable[[CachingProblem, float], CachingPolicy]


def _fixed(answer: dict[str, float], keep: dict[str, float]) -> Rule:
    return lambda problem, share: _set(problem.policy(share), *_weights(answer, keep))


def _bonus(problem: CachingProblem, share: float) -> CachingPolicy:
    tried = [
        _weights({"worth": 1.0, "resident": bonus}, {keep: 1.0})
        for bonus, keep in product(_BONUSES, ("recent", "often"))
    ]
    return _tuned(problem, share, tried)


def _index(problem: CachingProblem, share: float) -> CachingPolicy:
    unit = problem.configs[share].wait_weight
    tried = [
        _weights({"worth": 1.0, "wait": -part * unit}, {keep: 1.0})
        for part, keep in product(_SHARES, ("recent", "often"))
    ]
    return _tuned(problem, share, tried)


def _pinned(problem: CachingProblem, share: float) -> CachingPolicy:
    """Hold the experts that the router without a memory asks most, and ask nobody else."""
    policy = _set(problem.policy(share), *_weights({"worth": 1.0, "wait": -1e-3}, {"recent": 1.0}))
    demand = (problem.chance["train"] - policy.price).argmax(dim=-1)
    popular = demand.bincount(minlength=len(problem.names)).argsort(descending=True, stable=True)
    table = problem.rows[share, "train"]
    fits = table.size[popular].cumsum(0) <= table.gpu_bytes
    policy.allowed.fill_(False)
    policy.allowed[popular[fits]] = True
    return policy


def _rule(rule: Rule) -> Callable[..., Sequence[CachedPolicy]]:
    def fit(
        problem: CachingProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
    ) -> list[CachedPolicy]:
        return [_served(rule(problem, case.values["resident_share"])) for case in cases]

    return fit


def _cross_entropy(
    problem: CachingProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
) -> list[CachedPolicy]:
    """Search the weights from the tuned index rule; keep the best mean on validation rows.

    Source: Szita, Lorincz 2006, Learning Tetris using the noisy cross-entropy method,
    https://doi.org/10.1162/neco.2006.18.12.2936: a normal distribution over weights is moved to the best of
    its draws, with noise that fades so that it does not close too soon.
    """
    found: list[CachedPolicy] = []
    for place, case in enumerate(cases):
        share = case.values["resident_share"]
        policy = _index(problem, share)
        generator = torch.Generator().manual_seed(seed)
        split = len(ANSWER_INPUTS)
        mean = torch.cat([policy.answer, policy.keep])
        unit = problem.configs[share].wait_weight
        scale = torch.tensor([0.1, 0.3 * unit, 0.1, 0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.5])
        deviation = scale.clone()
        kept = [mean]
        for generation in range(_GENERATIONS):
            noise = torch.randn(_POPULATION, len(mean), generator=generator)
            drawn = mean + deviation * noise
            drawn[0] = mean
            earned = utilities(
                problem,
                share,
                "train",
                policy,
                Weights(drawn[:, :split], drawn[:, split:]),
                streams=_LANES,
                seed=(seed + 1) * 10_000 + generation * _LANES,
            )
            elite = drawn[earned.topk(_ELITE).indices]
            mean = 0.3 * mean + 0.7 * elite.mean(dim=0)
            fading = 0.2 * scale * max(0.0, 1.0 - 2.0 * generation / _GENERATIONS)
            deviation = 0.3 * deviation + 0.7 * elite.std(dim=0) + fading
            if generation % 4 == 3:
                kept.append(mean)
            done = place * _GENERATIONS + generation + 1
            tell(done, len(cases) * _GENERATIONS, f"{case.label}: best of this generation {earned.max():.4f}")
        found.append(
            _served(_tuned(problem, share, [(one[:split].tolist(), one[split:].tolist()) for one in kept]))
        )
    return found


def _belady(
    problem: CachingProblem, cases: Sequence[Case], seed: int, tries: int, tell: Tell
) -> list[CachedPolicy]:
    """Answer as a router without a memory would, and drop whoever is needed last: it knows what will come.

    Source: Belady 1966, https://doi.org/10.1147/sj.52.0078. It makes the fewest loads for those answers where
    all experts are as large; answers that wait less may still earn more.
    """
    found: list[CachedPolicy] = []
    for case in cases:
        policy = _set(problem.policy(case.values["resident_share"]), *_weights({"worth": 1.0}, {}))
        found.append(CachedPolicy(begin=lambda core, policy=policy: _clairvoyant(policy, core)))
    return found


def _clairvoyant(policy: CachingPolicy, core: CachingCore) -> Callable[[Tensor], Tensor]:
    rows = core.requests()
    chance = policy.beliefs.prior(core.table.outcomes.features).sigmoid()
    demand = (chance - policy.price)[rows].argmax(dim=-1)  # [B, W]
    window = demand.shape[1]
    later = torch.full((core.lanes, core.experts), float(window))
    upcoming = [later]
    for at in reversed(range(window)):
        later = later.scatter(-1, demand[:, at : at + 1], float(at))
        upcoming.append(later)
    upcoming.reverse()  # upcoming[t] [B, N]: when each is next needed, from t on

    def actions(seen: Tensor) -> Tensor:
        at = int(core.state.decisions[0])
        answer = demand[:, at]
        due = torch.where(core.state.resident, upcoming[at + 1], -1.0)
        due = due.scatter(-1, answer.unsqueeze(-1), -1.0)
        return torch.stack([answer, due.argmax(dim=-1)], dim=-1)

    return actions


METHODS: dict[str, EnvMethod] = {
    method.name: method
    for method in (
        EnvMethod(
            name="cross_entropy",
            family="rl",
            about="policy search from the tuned index rule (Szita & Lorincz 2006)",
            fit=_cross_entropy,
        ),
        EnvMethod(
            name="lru",
            family="baseline",
            about="answer as without a memory; the least recently used goes",
            fit=_rule(_fixed({"worth": 1.0}, {"recent": 1.0})),
        ),
        EnvMethod(
            name="lfu",
            family="baseline",
            about="answer as without a memory; the least often used goes",
            fit=_rule(_fixed({"worth": 1.0}, {"often": 1.0})),
        ),
        EnvMethod(
            name="pinned",
            family="baseline",
            about="the most popular experts stay, nobody else is asked",
            fit=_rule(_pinned),
        ),
        EnvMethod(
            name="bonus",
            family="baseline",
            about="a tuned bonus for resident experts",
            fit=_rule(_bonus),
        ),
        EnvMethod(
            name="index",
            family="baseline",
            about="worth less a tuned share of the wait",
            fit=_rule(_index),
        ),
        EnvMethod(
            name="belady",
            family="bound",
            about="answer as without a memory; whoever is needed last goes (Belady 1966)",
            fit=_belady,
        ),
    )
}
