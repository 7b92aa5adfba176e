"""Every method by its name on the command line. A new one is a file and a line here."""

from __future__ import annotations

from experts.errors import unknown_name

from .agents import sb3
from .baselines import constants, ridge
from .gates import em_gate, softmax_gate, switch_gate
from .method import Method

__all__ = ["METHODS", "ORACLE", "find_method"]

# The oracle knows the outcomes, so it is measured, not fitted; it is named with the methods all the same.
ORACLE = "oracle"

METHODS: dict[str, Method] = {
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
            name="softmax_gate",
            family="gate",
            fit=softmax_gate.fit,
            settings=softmax_gate.SoftmaxGateSettings,
            space=softmax_gate.SPACE,
            about="mixture trained by its task loss (Jacobs et al. 1991)",
        ),
        Method(
            name="switch_gate",
            family="gate",
            fit=switch_gate.fit,
            settings=switch_gate.SwitchGateSettings,
            space=switch_gate.SPACE,
            about="top-1 scaled by its probability (Fedus et al. 2021)",
        ),
        Method(
            name="em_gate",
            family="gate",
            fit=em_gate.fit,
            settings=em_gate.EMGateSettings,
            space=em_gate.SPACE,
            about="mixture trained by expectation-maximisation (Jordan and Jacobs 1994)",
        ),
        Method(
            name="ridge",
            family="baseline",
            fit=ridge.fit,
            settings=ridge.RidgeSettings,
            space=ridge.SPACE,
            about="ridge regression of each expert's utility",
        ),
        Method(
            name="random",
            family="baseline",
            fit=constants.fit_random,
            settings=constants.NoSettings,
            about="every expert with equal probability",
        ),
        Method(
            name="best_single",
            family="baseline",
            fit=constants.fit_best_single,
            settings=constants.NoSettings,
            about="one expert for every query",
        ),
        Method(
            name="zero_router",
            family="baseline",
            fit=constants.fit_zero_router,
            settings=constants.NoSettings,
            about="best mixture of two constant routers",
        ),
    )
}


def find_method(name: str) -> Method:
    """Look a method up.

    Raises:
        InputError: unknown; suggests the nearest name.
    """
    if name not in METHODS:
        raise unknown_name("method", name, [*METHODS, ORACLE])
    return METHODS[name]
