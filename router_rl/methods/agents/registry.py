"""Every reinforcement learner by its name on the command line. A new one is a file and a line here."""

from __future__ import annotations

from ..method import Method
from . import conditioned_pg, exact_pg, priced_pg, reinforce, router_ppo, sb3, warm_start

__all__ = ["AGENTS"]

AGENTS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="ppo",
            family="rl",
            fit=sb3.fit_ppo,
            settings=sb3.PPOSettings,
            space=sb3.PPO_SPACE,
            about="proximal policy optimisation (Stable-Baselines3)",
        ),
        Method(
            name="a2c",
            family="rl",
            fit=sb3.fit_a2c,
            settings=sb3.A2CSettings,
            space=sb3.A2C_SPACE,
            about="advantage actor-critic (Stable-Baselines3)",
        ),
        Method(
            name="dqn",
            family="rl",
            fit=sb3.fit_dqn,
            settings=sb3.DQNSettings,
            space=sb3.DQN_SPACE,
            about="deep Q-learning (Stable-Baselines3)",
            rules=("hard",),
        ),
        Method(
            name="reinforce",
            family="rl",
            fit=reinforce.fit,
            settings=reinforce.ReinforceSettings,
            space=reinforce.SPACE,
            about="score function with a leave-one-out baseline, on device",
        ),
        Method(
            name="router_ppo",
            family="rl",
            fit=router_ppo.fit,
            settings=router_ppo.RouterPPOSettings,
            space=router_ppo.SPACE,
            about="clipped surrogate with a group baseline, on device",
        ),
        Method(
            name="exact_pg",
            family="rl",
            fit=exact_pg.fit,
            settings=exact_pg.ExactPGSettings,
            space=exact_pg.SPACE,
            about="all-action policy gradient on the expected utility",
            holds_budget=True,
        ),
        Method(
            name="warm_exact_pg",
            family="rl",
            fit=warm_start.fit,
            settings=warm_start.WarmExactPGSettings,
            space=warm_start.SPACE,
            about="exact_pg from a gate's weights, kept where surely better",
            improving=warm_start.improving,
            holds_budget=True,
        ),
        Method(
            name="conditioned_pg",
            family="rl",
            fit=conditioned_pg.fit,
            settings=conditioned_pg.ConditionedPGSettings,
            space=conditioned_pg.SPACE,
            about="one policy for every compute weight, which is its input",
            over=conditioned_pg.over,
        ),
        Method(
            name="priced_pg",
            family="rl",
            fit=priced_pg.fit,
            settings=priced_pg.PricedPGSettings,
            space=priced_pg.SPACE,
            about="the surely best of a few regressions, or a policy over them, for every weight and price",
            rules=("hard",),
            over=priced_pg.over,
        ),
    )
}
