"""The README.md beside an exported router: what it is and how to load it."""

from __future__ import annotations

from experts.io.escaping import markdown_text

from ..routing import Router

__all__ = ["readme"]

_MOST_NAMES = 8


def readme(router: Router, format: str, usage: str, *, keeps_text: bool = False) -> str:
    """The content of `README.md`.

    Args:
        router: what was exported.
        format: the name of its format.
        usage: Python that loads and calls it, a few lines.
        keeps_text: the export holds the router's text pipeline.
    """
    experts = [markdown_text(name) for name in router.experts]
    names = experts[:_MOST_NAMES]
    if len(router.experts) > _MOST_NAMES:
        names = [*names[: _MOST_NAMES - 2], "...", experts[-1]]
    state = "".join(
        f" and `state` [T, {router.state_size}] float32 ({markdown_text(f'{part.name}: {part.meaning}')})"
        for part in router.state
    )
    if router.defaults and len(router.defaults) == len(router.state):
        defaults = ", ".join(f"{name} {value:g}" for name, value in router.defaults.items())
        state += f"; without `state`, {markdown_text(defaults)}"
    inputs = f"`features` [T, {router.features}] float32{state}"
    if router.text is not None:
        made = (
            f"{' and '.join(f'{name}s' for name in router.text.inputs)}, or from"
            if keeps_text
            else "the text features of the trained router (export it as safetensors):"
        )
        inputs = f"{made} {inputs}"
    return f"""# A router between {len(router.experts)} experts: {", ".join(names)}

`{router.rule.name}` selection, {router.rule.k} a row, from {inputs}.
Format `{format}`; `parity.json` says how it agrees with the router that was trained.
Fallback, where a row is not finite: expert {router.fallback}, {experts[router.fallback]}.

```python
{usage}
```
"""
