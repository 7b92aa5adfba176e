"""The environment of generated answers, checked against the generations that `grpo` learns from."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from envs import build_token_generation
from envs.token_generation import TokenGenerationConfig, TokenGenerationCore
from experts import InputError
from experts.moe.decoding import greedy
from experts.moe.token_pool import TokenPool
from router_rl.methods.token_moe.answer_rollouts import roll_out
from router_rl.problems.token_moe.layer_routers import LayerRouters
from router_rl.routing import Hard, Selection, TopK

ID = "RouterRL/TokenGeneration-v0"


def routers_of(pool: TokenPool, rule: Selection) -> LayerRouters:
    made = LayerRouters(pool.tail.depth, pool.tail.hidden, rule, pool.tail.names)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return made


def ragged(pool: TokenPool) -> TokenPool:
    """Return the pool with shorter prompts in every second sequence, and an end token of some answers."""
    assert pool.problems is not None
    part = pool.parts["train"]
    whole = part.tokens.shape[1] - pool.problems.answer
    tokens, prompt = part.tokens.copy(), torch.full((len(part),), whole).numpy()
    tokens[::2, :12], prompt[::2] = tokens[::2, whole - 12 : whole], 12

    def verify(prompts: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        return (answers[:, 0] % 3).float() / 2.0

    problems = replace(pool.problems, end=ord("1"), pad=7, verify=verify)
    parts = {**pool.parts, "train": replace(part, tokens=tokens, prompt=prompt)}
    return replace(pool, parts=parts, problems=problems)


@pytest.mark.parametrize("rule", [Hard(), TopK(k=2)])
@pytest.mark.parametrize("short", [False, True])
def test_it_plays_what_grpo_generates(asked_pool: TokenPool, rule: Selection, short: bool) -> None:
    pool = ragged(asked_pool) if short else asked_pool
    routers, rows = routers_of(pool, rule), torch.arange(4)
    weights = {"compute": 0.1, "load": 0.2}
    problems = pool.problems
    assert problems is not None
    config = TokenGenerationConfig(compute_weight=0.1, load_weight=0.2, k=rule.k)
    for row in rows.tolist():  # the load is that of the generations of a call
        made = roll_out(
            pool, routers, rows[row : row + 1], greedy, torch.Generator().manual_seed(row), weights
        )
        core = TokenGenerationCore(pool, "train", config, lanes=1)
        inner = made.routed

        def weigh(layer: int, x: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
            return routers.rule.weigh(routers.logits(layer, x), experts)

        core.weigh = weigh
        observation, count = core.start(rows[row : row + 1]), inner.x.shape[2]
        for token in range(count):
            for layer in range(pool.tail.depth):
                torch.testing.assert_close(observation[0], inner.x[layer, 0, token], atol=2e-4, rtol=2e-4)
                step = core.step(inner.experts[layer, :, token])
                observation = core.observation()
                last = (token, layer) == (count - 1, pool.tail.depth - 1)
                assert step.terminated.tolist() == [last]
                if not last:
                    assert step.reward.tolist() == [0.0]
        torch.testing.assert_close(step.reward, made.reward, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(step.parts["quality"], made.right)
        assert step.parts["compute"].item() == pytest.approx(rule.k)
        length = int(core.lengths[row])
        own = core.state.tokens[0, length : int(core.state.place[0]) + 2]
        assert torch.equal(own, inner.tokens[0, : len(own)])
        assert (inner.tokens[0, len(own) :] == (problems.end or 0)).all()


def test_lanes_of_several_lengths_are_played_as_each_alone(asked_pool: TokenPool) -> None:
    pool = ragged(asked_pool)
    many, alone = (
        build_token_generation(pool, 3, load_weight=0.3),
        build_token_generation(pool, 1, load_weight=0.3),
    )
    many.reset(seed=4)
    generator = torch.Generator().manual_seed(0)
    actions = torch.randint(0, many.experts, (220, 3, 1), generator=generator)
    for lane in range(3):
        many.reset(seed=4)
        alone.reset(seed=4 + lane)
        ended = 0
        for at in range(220):
            torch.testing.assert_close(alone.observation()[0], many.observation()[lane], atol=2e-4, rtol=2e-4)
            together, single = many.step(actions[at]), alone.step(actions[at, lane : lane + 1])
            torch.testing.assert_close(together.reward[lane], single.reward[0], atol=1e-5, rtol=1e-5)
            assert together.terminated[lane] == single.terminated[0]
            ended += int(single.terminated[0])
            many.clear(together.terminated)
            alone.clear(single.terminated)
        assert ended >= 2


def test_it_is_an_environment_of_gymnasium(asked_pool: TokenPool) -> None:
    env = gymnasium.make(ID, pool=asked_pool, k=2)
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    steps, ended, reward = 0, False, 0.0
    while not ended:
        _, reward, ended, truncated, info = env.step(env.action_space.sample())
        steps += 1
        assert not truncated
        assert info["share"].sum() == pytest.approx(1.0)
    assert steps == (32 + 4 - 1) * 3
    assert reward == info["quality"]


def test_mistakes_are_named(micro_pool: TokenPool, asked_pool: TokenPool) -> None:
    with pytest.raises(InputError, match=r"pool='micro': has no problems"):
        build_token_generation(micro_pool)
    with pytest.raises(InputError, match=r"pool='tiny': unknown"):
        build_token_generation("tiny")
    with pytest.raises(InputError, match=r"part='all': unknown"):
        build_token_generation(asked_pool, part="all")
    with pytest.raises(InputError, match=r"k=9: exceeds 4 experts"):
        build_token_generation(asked_pool, k=9)
    with pytest.raises(InputError, match=r"argument='compute_wieght': unknown; did you mean"):
        gymnasium.make(ID, compute_wieght=0.1)
