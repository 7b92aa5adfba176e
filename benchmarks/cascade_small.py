"""The learners of cascades with a sixth of the training, for studies on few cores."""

from __future__ import annotations

from dataclasses import dataclass, replace

from router_rl.methods.cascade.cascade_training import METHODS as LEARNERS
from router_rl.methods.cascade.cascade_training import CascadeHyperparameters, ExactPGHyperparameters
from router_rl.methods.cascade.guarded_pg import METHOD as GUARDED
from router_rl.methods.cascade.guarded_pg import GuardedPGHyperparameters
from router_rl.methods.registry import METHODS as REGISTRY

__all__ = ["METHODS", "register"]


@dataclass(frozen=True, kw_only=True)
class SmallPG(ExactPGHyperparameters):
    """Three members of 200 steps on four experts a query, in place of five of 320 steps on five."""

    steps: int = 200
    members: int = 3
    pool: int = 4


@dataclass(frozen=True, kw_only=True)
class SmallGuarded(GuardedPGHyperparameters):
    """Three members of 200 steps on four experts a query, in place of five of 320 steps on five."""

    steps: int = 200
    members: int = 3
    pool: int = 4


@dataclass(frozen=True, kw_only=True)
class SmallQ(CascadeHyperparameters):
    """Three members of 200 steps on four experts a query, in place of five of 320 steps on five."""

    steps: int = 200
    members: int = 3
    pool: int = 4


_SMALL = {"exact_pg": SmallPG, "fitted_q": SmallQ, "guarded_pg": SmallGuarded}
METHODS = tuple(
    replace(method, name=f"{method.name}_small", hyperparameters=_SMALL[method.name], space={})
    for method in (*LEARNERS, GUARDED)
)


def register() -> None:
    """Make the methods known as `exact_pg_small`, `fitted_q_small` and `guarded_pg_small`."""
    for method in METHODS:
        REGISTRY.own[f"cascade.{method.name}"] = "cascade_small:METHODS"
