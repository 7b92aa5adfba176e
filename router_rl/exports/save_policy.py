"""Save any fitted policy to a folder that `router_rl.routing.load` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experts import OutcomeTable

from ..routing import Router

__all__ = ["exportable", "save_policy"]


def exportable(policy: Any) -> Any:
    """Return the exportable part of a policy: a router, a policy module, or None.

    Args:
        policy: a router is returned as it is; of other policies, the attribute `module`.
    """
    return policy if isinstance(policy, Router) else getattr(policy, "module", None)


def save_policy(policy: Any, folder: Path, rows: OutcomeTable | None = None) -> bool:
    """Write a policy; the export passes the parity check unless its rule reads the whole batch.

    Args:
        policy: any fitted policy.
        folder: the output folder.
        rows: rows for the parity check of a router.

    Returns:
        False if the policy has nothing to export.
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
    else:  # this toolkit loads it again; it is not served
        write(module, folder)
    return True
