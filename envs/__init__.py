"""Gymnasium environments over frozen experts; importing this package registers them."""

import gymnasium

from .adapters import SB3VecEnv, ScalarEnv, VectorizedEnv
from .core import Core, Step
from .outcomes import Outcomes, compute_scale
from .reward import load_charge
from .layer_load import LoadRule
from .routing import SHARPNESS, RoutingConfig, RoutingCore, RoutingEnv, RoutingVectorEnv, build_core
from .token_moe import TokenMoEConfig, TokenMoECore, TokenMoEEnv, TokenMoEVectorEnv, open_core

__all__ = [
    "ENVS",
    "SHARPNESS",
    "Core",
    "LoadRule",
    "Outcomes",
    "RoutingConfig",
    "RoutingCore",
    "RoutingEnv",
    "RoutingVectorEnv",
    "SB3VecEnv",
    "ScalarEnv",
    "Step",
    "TokenMoEConfig",
    "TokenMoECore",
    "TokenMoEEnv",
    "TokenMoEVectorEnv",
    "VectorizedEnv",
    "build_core",
    "compute_scale",
    "load_charge",
    "open_core",
]

ENVS = {
    "RouterRL/Routing-v0": ("envs.routing:RoutingEnv", "envs.routing:RoutingVectorEnv"),
    "RouterRL/TokenMoE-v0": ("envs.token_moe:TokenMoEEnv", "envs.token_moe:TokenMoEVectorEnv"),
}

for _name, (_scalar, _vector) in ENVS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(id=_name, entry_point=_scalar, vector_entry_point=_vector)
