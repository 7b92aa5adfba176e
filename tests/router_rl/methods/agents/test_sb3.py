"""When the agents of Stable-Baselines3 are validated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from router_rl.methods.agents.sb3 import PPOHyperparameters, _Validation
from router_rl.methods.method import Run


@pytest.mark.parametrize(
    ("steps", "expected"), [(8, [0, 128, 224, 320, 416]), (64, [0, 256, 512, 768]), (25, [0, 100, 200, 300])]
)
def test_validation_follows_the_rollout_that_passes_a_multiple_of_the_period(
    steps: int, expected: list[int]
) -> None:
    """4 lanes and a period of 100 decisions."""
    validated: list[int] = []

    def update(router: Any, played: int, total: int, means: dict[str, float]) -> bool:
        validated.append(played)
        return len(validated) == len(expected)

    env: Any = SimpleNamespace(num_envs=4, take_averages=dict)
    stopping: Any = SimpleNamespace(update=update)
    settings = PPOHyperparameters(validate_every=100)
    callback: Any = _Validation(env, SimpleNamespace(), stopping, settings, Run())  # type: ignore[arg-type]
    callback.model = SimpleNamespace(n_steps=steps)
    while callback._on_step():
        callback._on_rollout_start()
        callback.num_timesteps += 4 * steps
    assert validated == expected
