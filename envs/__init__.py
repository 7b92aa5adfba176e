"""Gymnasium environments over frozen experts; importing this package registers them."""

import gymnasium

from .adapters import SB3VecEnv, ScalarEnv, VectorizedEnv
from .core import Core, Step
from .outcomes import Outcomes, compute_scale
from .queueing import (
    QueueingConfig,
    QueueingCore,
    QueueingEnv,
    QueueingVectorEnv,
    QueueUnits,
    build_queueing,
)
from .reward import load_charge
from .routing import SHARPNESS, RoutingConfig, RoutingCore, RoutingEnv, RoutingVectorEnv, build_core

__all__ = [
    "ENVS",
    "SHARPNESS",
    "Core",
    "Outcomes",
    "QueueUnits",
    "QueueingConfig",
    "QueueingCore",
    "QueueingEnv",
    "QueueingVectorEnv",
    "RoutingConfig",
    "RoutingCore",
    "RoutingEnv",
    "RoutingVectorEnv",
    "SB3VecEnv",
    "ScalarEnv",
    "Step",
    "VectorizedEnv",
    "build_core",
    "build_queueing",
    "compute_scale",
    "load_charge",
]

ENVS = {
    "RouterRL/Routing-v0": ("envs.routing:RoutingEnv", "envs.routing:RoutingVectorEnv"),
    "RouterRL/Queueing-v0": ("envs.queueing:QueueingEnv", "envs.queueing:QueueingVectorEnv"),
}

for _name, (_scalar, _vector) in ENVS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(id=_name, entry_point=_scalar, vector_entry_point=_vector)
