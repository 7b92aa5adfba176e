"""Gymnasium environments over frozen experts; importing this package registers them."""

import gymnasium

from .adapters import SB3VecEnv, ScalarEnv, VectorizedEnv
from .core import Core, Step
from .outcomes import Outcomes, compute_scale
from .reward import load_charge
from .routing import SHARPNESS, RoutingConfig, RoutingCore, RoutingEnv, RoutingVectorEnv, build_core

__all__ = [
    "ENVS",
    "SHARPNESS",
    "Core",
    "Outcomes",
    "RoutingConfig",
    "RoutingCore",
    "RoutingEnv",
    "RoutingVectorEnv",
    "SB3VecEnv",
    "ScalarEnv",
    "Step",
    "VectorizedEnv",
    "build_core",
    "compute_scale",
    "load_charge",
]

ENVS = {"RouterRL/Routing-v0": ("envs.routing:RoutingEnv", "envs.routing:RoutingVectorEnv")}

for _name, (_scalar, _vector) in ENVS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(id=_name, entry_point=_scalar, vector_entry_point=_vector)
