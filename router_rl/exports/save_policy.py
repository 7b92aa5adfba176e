"""Keep any fitted policy in a folder, in the form that `router_rl.routing.load` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experts import OutcomeTable

from ..routing import Router

__all__ = ["exportable", "save_policy"]


def exportable(policy: Any) -> Any:
    """What can be exported of a policy: a router, a policy module, or None.

    Args:
        policy: a router is itself; other policies name theirs in `module`.
    """
    return policy if isinstance(policy, Router) else getattr(policy, "module", None)


def save_policy(policy: Any, folder: Path, rows: OutcomeTable | None = None) -> bool:
    """Write a policy, checked against itself where its rule routes one row at a time.

    Args:
        policy: any fitted policy.
        folder: the folder to write.
        rows: rows that a router's export is checked on.

    Returns:
        False where the policy has nothing to export.
    """
    from . import export
    from .safetensors import write

    module = exportable(policy)
    if module is None:
        return False
    if hasattr(module, "save"):
        module.save(folder)
    elif not isinstance(module, Router):
        export(module, folder)
    elif module.rule.causal:
        export(module, folder, rows=rows)
    else:  # it is read again by this toolkit, not served
        write(module, folder)
    return True
