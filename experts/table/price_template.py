"""A price table to fill in: the experts by name, with LiteLLM's prices where its map has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from ..io.errors import InputError
from .prices import LITELLM, read_prices

__all__ = ["price_template"]

_HEAD = """# US dollars per million tokens: input for the prompt, output for the answer;
# or {call: 0.001} for each query. Correct these prices and fill in each null.
"""
_WIDTH = 78  # a terminal cuts longer lines


def price_template(experts: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return a price table in YAML, and the experts that have no price in it.

    Args:
        experts: names.

    >>> text, unpriced = price_template(["my-model"])
    >>> print(text.splitlines()[-1], unpriced)
      my-model: {input: null, output: null} ('my-model',)
    """
    prices: dict[str, dict[str, Any]] = {}
    source = ""
    for expert in experts:
        try:
            known = read_prices(LITELLM, [expert])
        except InputError:  # LiteLLM is not installed, or does not know one price for this name
            prices[expert] = {"input": None, "output": None}
        else:
            price = known.prices[expert]
            prices[expert] = {"input": round(price.input, 9), "output": round(price.output, 9)}
            source = f"# Known prices are from {known.source}.\n"
    unpriced = tuple(name for name, price in prices.items() if price["input"] is None)
    lines = (f"{_key(name)}: {_value(price)}\n" for name, price in prices.items())
    return f"{_HEAD}{source}prices:\n{''.join(lines)}", unpriced


def _value(price: dict[str, Any]) -> str:
    return yaml.safe_dump(price, default_flow_style=True, sort_keys=False).strip()


def _key(name: str) -> str:
    """A key of YAML on lines of at most `_WIDTH` characters."""
    short = yaml.safe_dump(name, width=10**6).removesuffix("\n").removesuffix("\n...")
    if len(short) <= _WIDTH // 2 and "\n" not in short:
        return f"  {short}"
    lines = [""]
    for each in name:
        plain = each.isascii() and (each.isalnum() or each in "-_./:@")
        lines[-1] += each if plain else f"\\U{ord(each):08x}"
        if len(lines[-1]) > _WIDTH - 20:
            lines.append("")
    return '  ? "' + "\\\n    ".join(lines) + '"\n  '
