"""Gymnasium environments over frozen experts; importing this package registers them."""

import gymnasium

from .adapters import SB3VecEnv, ScalarEnv, VectorizedEnv, environment_classes
from .caching import CachingConfig, CachingCore, CachingEnv, CachingTable, CachingVectorEnv, build_caching
from .cascade import CascadeConfig, CascadeCore, CascadeEnv, CascadeTable, CascadeVectorEnv, build_cascade
from .conversations import Conversations
from .core import BatchedCore, Core, Step
from .layer_load import LoadRule
from .memory import MemoryProfile
from .outcomes import Outcomes, compute_scale
from .queueing import QueueingConfig, QueueingCore, QueueingEnv, QueueingVectorEnv, QueueUnits, build_queueing
from .reward import utility
from .routing import SHARPNESS, RoutingConfig, RoutingCore, RoutingEnv, RoutingVectorEnv, build_routing
from .session import SessionConfig, SessionCore, SessionEnv, SessionTable, SessionVectorEnv, build_session
from .token_generation import (
    TokenGenerationConfig,
    TokenGenerationCore,
    TokenGenerationEnv,
    TokenGenerationVectorEnv,
    build_token_generation,
)
from .token_moe import TokenMoEConfig, TokenMoECore, TokenMoEEnv, TokenMoEVectorEnv, build_token_moe
from .window import load_penalty

__all__ = [
    "ENVS",
    "SHARPNESS",
    "BatchedCore",
    "CachingConfig",
    "CachingCore",
    "CachingEnv",
    "CachingTable",
    "CachingVectorEnv",
    "CascadeConfig",
    "CascadeCore",
    "CascadeEnv",
    "CascadeTable",
    "CascadeVectorEnv",
    "Conversations",
    "Core",
    "LoadRule",
    "MemoryProfile",
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
    "SessionConfig",
    "SessionCore",
    "SessionEnv",
    "SessionTable",
    "SessionVectorEnv",
    "Step",
    "TokenGenerationConfig",
    "TokenGenerationCore",
    "TokenGenerationEnv",
    "TokenGenerationVectorEnv",
    "TokenMoEConfig",
    "TokenMoECore",
    "TokenMoEEnv",
    "TokenMoEVectorEnv",
    "VectorizedEnv",
    "build_caching",
    "build_cascade",
    "build_queueing",
    "build_routing",
    "build_session",
    "build_token_generation",
    "build_token_moe",
    "compute_scale",
    "environment_classes",
    "load_penalty",
    "utility",
]

# An environment is one file and one line here: its id, and the classes for `make` and `make_vec`.
ENVS = {
    "RouterRL/Routing-v0": ("envs.routing:RoutingEnv", "envs.routing:RoutingVectorEnv"),
    "RouterRL/TokenMoE-v0": ("envs.token_moe:TokenMoEEnv", "envs.token_moe:TokenMoEVectorEnv"),
    "RouterRL/TokenGeneration-v0": (
        "envs.token_generation:TokenGenerationEnv",
        "envs.token_generation:TokenGenerationVectorEnv",
    ),
    "RouterRL/Queueing-v0": ("envs.queueing:QueueingEnv", "envs.queueing:QueueingVectorEnv"),
    "RouterRL/Caching-v0": ("envs.caching:CachingEnv", "envs.caching:CachingVectorEnv"),
    "RouterRL/Cascade-v0": ("envs.cascade:CascadeEnv", "envs.cascade:CascadeVectorEnv"),
    "RouterRL/Session-v0": ("envs.session:SessionEnv", "envs.session:SessionVectorEnv"),
}

for _name, (_scalar, _vector) in ENVS.items():
    if _name not in gymnasium.registry:
        gymnasium.register(id=_name, entry_point=_scalar, vector_entry_point=_vector)
