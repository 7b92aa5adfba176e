"""The README.md of an exported router: what it is and how to load it."""

from __future__ import annotations

from experts.io.escaping import markdown_text

from ..routing import Router

__all__ = ["readme"]

_MAX_NAMES = 8


def readme(router: Router, format: str, usage: str, *, keeps_text: bool = False) -> str:
    """Return the content of an exported router's `README.md`.

    Args:
        router: the exported router.
        format: the name of its format.
        usage: a few lines of Python that load and call it.
        keeps_text: the export contains the router's text pipeline.
    """
    experts = [markdown_text(name) for name in router.experts]
    names = experts[:_MAX_NAMES]
    if len(router.experts) > _MAX_NAMES:
        names = [*names[: _MAX_NAMES - 2], "...", experts[-1]]
    state = "".join(
        f" and `state` [T, {router.state_size}] float32 ({markdown_text(f'{part.name}: {part.meaning}')})"
        for part in router.state
    )
    if router.defaults and len(router.defaults) == len(router.state):
        defaults = ", ".join(f"{name} {value:g}" for name, value in router.defaults.items())
        state += f"; default {markdown_text(defaults)}"
    inputs = f"`features` [T, {router.features}] float32{state}"
    if router.text is not None:
        source = (
            f"{' and '.join(f'{name}s' for name in router.text.inputs)}, or from"
            if keeps_text
            else "the text features of the trained router (export it as safetensors):"
        )
        inputs = f"{source} {inputs}"
    return f"""# A router between {len(router.experts)} experts: {", ".join(names)}

`{router.rule.name}` selection, {router.rule.k} per row, from {inputs}.
Format `{format}`; `parity.json` has the comparison with the trained router.
Fallback for non-finite rows: expert {router.fallback}, {experts[router.fallback]}.

```python
{usage}
```
"""
