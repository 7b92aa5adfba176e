"""The ten lines that stand beside an export: what it is and how it is loaded."""

from __future__ import annotations

from ..routing import Router

__all__ = ["readme"]

_MOST_NAMES = 8


def readme(router: Router, format: str, usage: str) -> str:
    """The content of `README.md`.

    Args:
        router: what was exported.
        format: its format.
        usage: Python that loads and calls it, a few lines.
    """
    names = list(router.experts[:_MOST_NAMES])
    if len(router.experts) > _MOST_NAMES:
        names = [*names[: _MOST_NAMES - 2], "...", router.experts[-1]]
    state = "".join(
        f" and `state` [T, {router.state_size}] float32 ({part.name}: {part.meaning})"
        for part in router.state
    )
    return f"""# A router between {len(router.experts)} experts: {", ".join(names)}

`{router.rule.name}` selection, {router.rule.k} a row, from `features` [T, {router.features}] float32{state}.
Format `{format}`; `parity.json` says how it agrees with the router that was trained.
Fallback, where a row is not finite: expert {router.fallback}, {router.experts[router.fallback]}.

```python
{usage}
```
"""
