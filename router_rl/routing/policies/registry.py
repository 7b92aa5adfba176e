"""Policies that read state, by the `kind` in `policy.json`. A new policy is one line here."""

from __future__ import annotations

from typing import Any

from .caching_policy import CachingPolicy
from .cascade_policy import CascadePolicy
from .network_policy import NetworkPolicy
from .session_policy import SessionPolicy

__all__ = ["POLICIES"]

# Each is an nn.Module with `kind`, `Spec` (the type of `spec()`), `experts`, `features`, `text`,
# `observation_size`, `spec()`, `from_spec(spec)`, `start` and `act`.
POLICIES: dict[str, Any] = {
    "cascade": CascadePolicy,
    "caching": CachingPolicy,
    "network": NetworkPolicy,
    "session": SessionPolicy,
}
