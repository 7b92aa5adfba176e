"""The session policy acts in the environment as it does on live state, and its rules are those they name."""

from __future__ import annotations

import pytest
import torch
from environment_tables import topics

from router_rl import SessionProblem
from router_rl.exports.policy_files import write_policy
from router_rl.routing import RouterError, load
from router_rl.routing.policies.cascade_beliefs import Beliefs
from router_rl.routing.policies.session_policy import INPUTS, SessionPolicy, session_aware


@pytest.fixture(scope="module")
def problem():
    options = {"prices": (1.0, 2.0, 3.0, 5.0), "expiry_s": (60.0, 300.0, 300.0, 300.0), "gap_s": 50.0}
    return SessionProblem(topics(), episodes=2, window=8, turns=6.0, **options)


def trained(problem: SessionProblem, hidden: int = 5) -> SessionPolicy:
    policy = problem.policy(problem.cases[1], hidden)
    generator = torch.Generator().manual_seed(0)
    for parameter in (policy.weights, policy.bias, *policy.network.parameters()):
        parameter.normal_(generator=generator)
    policy.threshold.fill_(10_000.0)
    return policy


def test_live_state_gives_the_observations_of_the_environment(problem):
    policy, core = trained(problem), problem.core("test", problem.cases[0], lanes=64, seed=3)
    generator, lanes = torch.Generator().manual_seed(1), torch.arange(64)
    prompt, clock = torch.zeros(64, 4), torch.full((64, 4), -1e9)  # of each expert: tokens, second of its use
    now, switches, last, turn = torch.zeros(64), torch.zeros(64), torch.full((64,), 4), torch.zeros(64)
    expired = 0
    for _ in range(40):
        table, place = core.table, core.state.place
        context, shared = table.context[place], table.shared[place]
        now = now + table.gap_s[place]
        prompt = torch.minimum(prompt, shared.unsqueeze(-1))
        idle = now.unsqueeze(-1) - clock
        expired += int(((idle > policy.expiry_s) & (prompt > 0)).sum())
        features = table.outcomes.features[core.state.row]
        observation = policy.observe(features, context, shared, prompt, idle, last, turn, switches)
        torch.testing.assert_close(observation, core.observation(), rtol=1e-4, atol=1e-5)
        actions = torch.randint(0, 4, (64,), generator=generator)
        switches = switches + ((last < 4) & (last != actions))
        prompt[lanes, actions], clock[lanes, actions] = context, now
        last, turn = actions, turn + 1
        finished = core.step(actions).terminated
        core.clear(finished)
        prompt[finished], clock[finished] = 0.0, -1e9
        switches[finished], turn[finished], last[finished], now[finished] = 0.0, 0.0, 4, 0.0
    assert expired > 20


@pytest.mark.parametrize("hidden", [0, 5])
def test_an_exported_policy_plays_as_the_trained_one(problem, hidden, tmp_path):
    policy = trained(problem, hidden)
    write_policy(policy, tmp_path)
    loaded = load(tmp_path)
    assert isinstance(loaded, SessionPolicy)
    cores = [problem.core("test", problem.cases[0], lanes=32, seed=0) for _ in range(2)]
    chosen = set()
    for _ in range(30):
        actions = [each.act(core.observation()) for each, core in zip((policy, loaded), cores, strict=True)]
        assert actions[0].equal(actions[1])
        chosen |= set(actions[0].tolist())
        for core in cores:
            core.clear(core.step(actions[0]).terminated)
    assert len(chosen) >= 3


def test_the_inputs_by_hand(problem):
    policy = trained(problem)
    policy.threshold.fill_(20_000.0)
    weight = float(policy.compute_weight)
    state = torch.tensor([[0.5, 0, 0, 0, 0.2, 1, 1, 1, 1, 0, 0, 0, 3, 4, 5, 6, 1, 2, 3, 4, 14.0, 0.5, 2, 0]])
    chance, later = torch.full((1, 4), 0.6), torch.full((1, 4), 0.7)
    inputs = policy.inputs(chance, later, state)[0]
    for place, name in enumerate(INPUTS):
        expected = {
            "chance": [0.6] * 4,
            "later": [0.7] * 4,
            "cost": [weight * cost for cost in (1, 2, 3, 4)],
            "refill": [2 * weight] * 4,
            "stay": [1, 0, 0, 0],
            "long stay": [0] * 4,  # 2 ** 14 tokens
        }.get(name)
        if expected is not None:
            torch.testing.assert_close(inputs[:, place], torch.tensor(expected, dtype=torch.float32))
    policy.threshold.fill_(10_000.0)
    assert policy.inputs(chance, later, state)[0, :, INPUTS.index("long stay")].tolist() == [1, 0, 0, 0]


def test_session_aware_by_hand():
    """The second of two models is current; prices 1 and 4; 16,384 tokens, half of them reused, all warm."""
    state = torch.tensor([[0.0, 0.5, 1.0, 0.1, 0.0, 1.0, 0, 0, 0, 0, 14.0, 0.5, 4.0, 2.0]])
    price = torch.tensor([1.0, 4.0])
    continuation = 0.45 * 0.5 + 0.35 * 1.0 + 0.2 * 0.5
    prefix = 0.2 * continuation * 0.5 * 2.5
    stay, leave = 0.1 + prefix, prefix + 0.05 + 0.05 + 0.04 * 0.25
    better = session_aware(torch.tensor([[0.9, 0.8]]), state, price)
    torch.testing.assert_close(better, torch.tensor([[-leave, stay]]))
    no_better = session_aware(torch.tensor([[0.8, 0.8]]), state, price)
    torch.testing.assert_close(no_better, torch.tensor([[-leave - 0.1, stay]]))
    lost = state.clone()
    lost[0, 3] = 1.0
    assert session_aware(torch.tensor([[0.9, 0.8]]), lost, price).tolist() == [[0.0, 0.0]]
    first = state.clone()
    first[0, 5] = 0.0
    assert session_aware(torch.tensor([[0.9, 0.8]]), first, price).tolist() == [[0.0, 0.0]]


def test_observations_that_are_not_finite_are_counted(problem):
    policy = trained(problem)
    observation = torch.rand(4, policy.observation_size)
    observation[1, 0], observation[2, -1] = float("nan"), float("inf")
    step = policy.decide(observation)
    assert step.fallback.tolist() == [False, True, True, False]
    assert ((step.answer >= 0) & (step.answer < 4)).all()


def test_what_is_refused(problem):
    with pytest.raises(RouterError, match="beliefs must be for 3 experts and 4 features"):
        SessionPolicy(("a", "b", "c"), 4, Beliefs(4, 3, 1, 2), Beliefs(4, 2, 1, 2))
    flat, each = torch.ones(2), torch.ones(2, 4)
    with pytest.raises(RouterError, match=r"features must be \[T, 5\]"):
        trained(problem).observe(torch.ones(2, 3), flat, flat, each, each, flat.long(), flat, flat)
