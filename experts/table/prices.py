"""Prices of tokens, from LiteLLM's packaged price map or a dated YAML table, and tables at other prices.

A price table holds US dollars per million tokens or per call, and can hold several dates. A number is the
price of a million tokens, of the prompt and of the answer alike. The line `prices:` can be left out:

    date: 2024-07-01
    prices:
      gpt-4-1106-preview: {input: 10, output: 30}
      my-server: {call: 0.0002}
      llama: 0.2
      mixtral: {litellm: together_ai/mistralai/Mixtral-8x7B-Instruct-v0.1}
      gpt-3.5-turbo:
        - {from: 2023-03-01, input: 2, output: 2}
        - {from: 2023-06-13, input: 1.5, output: 2}
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..io.errors import InputError
from ..io.yaml_file import read_yaml
from .outcome_table import OutcomeTable

__all__ = [
    "LITELLM",
    "Price",
    "PriceTable",
    "mapped_price",
    "price_from",
    "read_prices",
    "reprice",
    "token_costs",
]

LITELLM = "litellm"
_MILLION = 1e6
_HIGHEST = 1e9  # US dollars: costs stay far below the largest float32
_RANGE = f"use US dollars, 0 to {_HIGHEST:,.0f}"
_MAP = "model_prices_and_context_window_backup.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """The price of one expert.

    Attributes:
        input: US dollars per million prompt tokens.
        output: US dollars per million answer tokens.
        call: US dollars per call, independent of its tokens.

    Raises:
        InputError: a price is negative, not finite or above a billion.
    """

    input: float = 0.0
    output: float = 0.0
    call: float = 0.0

    def __post_init__(self) -> None:
        for name in ("input", "output", "call"):
            value = getattr(self, name)
            if not 0.0 <= value <= _HIGHEST:
                raise InputError(f"prices.{name}", value, "is not a price", _RANGE)


@dataclass(frozen=True, kw_only=True)
class PriceTable:
    """Prices of experts.

    Attributes:
        prices: by expert.
        source: a description of where they come from, with their date.
    """

    prices: dict[str, Price]
    source: str


def read_prices(source: str | Path, experts: Sequence[str], on: str | date | None = None) -> PriceTable:
    """Return the prices of some experts.

    Args:
        source: `litellm`, or the path of a YAML price table.
        experts: names.
        on: the date of the prices, if an entry has several; None: the latest.

    Raises:
        InputError: the table cannot be read or lacks an expert, or litellm is not installed.
    """
    day = _day("on", on) if on is not None else None
    if str(source) == LITELLM:
        priced = {expert: _from_litellm(expert) for expert in experts}
        return PriceTable(prices=priced, source=f"LiteLLM {version('litellm')}'s price map")
    path = Path(source)
    entries, stated = _entries(path)
    for expert in experts:
        if expert not in entries:
            raise _unpriced(expert, str(path), entries)
    dated = day or stated
    return PriceTable(
        prices={expert: _entry(expert, entries[expert], day) for expert in experts},
        source=path.name if dated is None else f"{path.name} of {dated}",
    )


def token_costs(prices: Sequence[Price], tokens_in: np.ndarray, tokens_out: np.ndarray) -> np.ndarray:
    """Return costs in US dollars: `call + (tokens_in * input + tokens_out * output) / 1e6`.

    Args:
        prices: N prices.
        tokens_in: [T, N] float, prompt tokens; NaN is allowed where the price does not depend on it.
        tokens_out: [T, N] float, answer tokens; likewise.

    Returns:
        [T, N] float64, US dollars.

    >>> token_costs([Price(input=10, output=30)], np.array([[1000.0]]), np.array([[100.0]])).round(6)
    array([[0.013]])
    """
    cost = np.zeros(tokens_in.shape)
    for expert, price in enumerate(prices):
        cost[:, expert] = price.call
        for rate, tokens in ((price.input, tokens_in), (price.output, tokens_out)):
            if rate:
                cost[:, expert] += tokens[:, expert].astype(np.float64) * rate / _MILLION
    return cost


def reprice(table: OutcomeTable, prices: PriceTable) -> OutcomeTable:
    """Return the same outcomes at other prices; the table's `notes` name the prices.

    Args:
        table: with token counts of every expert that has a price per token.
        prices: of its experts.

    Raises:
        InputError: an expert has a price per token and no token counts.
    """
    charged = [prices.prices[expert] for expert in table.experts]
    notes = [f"prices: {prices.source}"]
    tokens_in, note = _tokens_in(table)
    unknown = np.full(table.quality.shape, np.nan, dtype=np.float32)
    tokens_out = unknown if table.tokens_out is None else table.tokens_out
    cost = token_costs(charged, unknown if tokens_in is None else tokens_in, tokens_out)
    wrong = np.argwhere(np.isnan(cost))
    if len(wrong):
        row, expert = (int(index) for index in wrong[0])
        problem = f"row {row} has no token counts, which its price needs"
        fix = "add tokens_in/<expert> and tokens_out/<expert>, or give a price for a `call`"
        raise InputError("prices", table.experts[expert], problem, fix)
    if note and any(price.input for price in charged):
        notes.append(note)
    return replace(table, cost=cost, cost_unit="usd", notes=(*table.notes, *notes))


def _tokens_in(table: OutcomeTable) -> tuple[np.ndarray | None, str]:
    """Prompt tokens [T, N], from a tokenizer's column for experts without a count, and the note on that."""
    counts = table.tokens_in
    extra = [] if table.extra is None else table.extra.column_names
    shared = [name for name in extra if name.startswith("tokens_in/")]
    if not shared or (counts is not None and not np.isnan(counts).any()):
        return counts, ""
    assert table.extra is not None
    common = np.asarray(table.extra[shared[0]].to_numpy(), dtype=np.float32)[:, None]
    filled = common.repeat(len(table.experts), axis=1)
    note = f"experts without prompt token counts have those of the column {shared[0]}"
    return (filled if counts is None else np.where(np.isnan(counts), filled, counts)), note


def _entries(path: Path) -> tuple[dict[str, Any], date | None]:
    """The entry of each expert in a price table, and the table's date."""
    content: Any = read_yaml("prices", path)
    table = cast("dict[Any, Any]", content) if isinstance(content, dict) else {}
    fix = "write {expert: {input: 1, output: 2}}; `import --print-prices` writes a table to fill in"
    if "prices" in table:
        unknown = sorted(str(name) for name in set(table) - {"prices", "date"})
        if unknown:
            known = "beside `prices:` only `date:` is known"
            raise InputError("prices", str(path), f"has the unknown key {unknown[0]!r}; {known}", fix)
        listed = table["prices"]
    else:
        listed = {name: entry for name, entry in table.items() if name != "date"}
    if not isinstance(listed, dict) or not listed:
        raise InputError("prices", str(path), "has no mapping of experts to prices", fix)
    entries = {str(name): entry for name, entry in cast("dict[Any, Any]", listed).items()}
    return entries, None if table.get("date") is None else _day(f"prices={str(path)!r}: date", table["date"])


def _entry(name: str, entry: Any, day: date | None) -> Price:
    """The price in an expert's entry, which is one price or several with their dates."""
    if isinstance(entry, list) and entry and all(isinstance(each, dict) for each in cast("list[Any]", entry)):
        dated = sorted(
            ((_day(f"prices.{name}.from", each.get("from")), each) for each in cast("list[Any]", entry)),
            key=lambda pair: pair[0],
        )
        current = [each for since, each in dated if day is None or since <= day]
        if not current:
            fix = "add an earlier price"
            raise InputError(f"prices.{name}", str(day), f"its first price is of {dated[0][0]}", fix)
        entry = {key: value for key, value in current[-1].items() if key != "from"}
    if isinstance(entry, int | float) and not isinstance(entry, bool):
        entry = {"input": entry, "output": entry}
    return price_from(f"prices.{name}", entry)


def price_from(field: str, entry: Any) -> Price:
    """Return the price of a YAML entry.

    Args:
        field: the entry's name, for the error.
        entry: `{input: 1, output: 2}`, `{call: 0.1}` or `{litellm: provider/model}`.

    Raises:
        InputError: the entry has another form; names the field.
    """
    if not isinstance(entry, dict):
        raise InputError(field, entry, "is not a price", "write {input: 1, output: 2}")
    values = cast("dict[str, Any]", entry)
    if set(values) == {LITELLM}:
        return _from_litellm(str(values[LITELLM]))
    unknown = sorted(str(key) for key in set(values) - {"input", "output", "call"})
    if unknown or not values:
        problem = f"has unknown keys: {', '.join(unknown)}" if unknown else "is empty"
        raise InputError(field, values, problem, "use input, output and call, or litellm alone")
    numbers: dict[str, float] = {}
    for key, value in values.items():
        if value is None:
            raise InputError(f"{field}.{key}", None, "is not filled in", "write US dollars, 0 if it is free")
        try:
            numbers[key] = float("bool" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{field}.{key}", value, "is not numeric", "write US dollars") from error
        if not 0.0 <= numbers[key] <= _HIGHEST:
            raise InputError(f"{field}.{key}", value, "is not a price", _RANGE)
    return Price(**numbers)


def _unpriced(expert: str, where: str, known: Iterable[str]) -> InputError:
    nearest = difflib.get_close_matches(expert, known, n=1)
    hint = f" (nearest: {nearest[0]!r})" if nearest else ""
    return InputError("prices", expert, f"{where} has no price for it{hint}", "add it to a YAML price table")


def _day(field: str, value: Any) -> date:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        return date.fromisoformat(str(value))
    except ValueError as error:
        raise InputError(field, value, "is not a date", "write 2024-07-01") from error


def mapped_price(model: str) -> Price | None:
    """Return a model's price in LiteLLM's packaged map, or None if the map has none.

    Args:
        model: as LiteLLM spells it: `provider/model` or `model`.

    >>> mapped_price("openai/gpt-4o-mini") == mapped_price("gpt-4o-mini") != None
    True
    """
    known = _litellm_map()
    provider, _, bare = model.partition("/")
    entry: Any = known.get(model)
    if entry is None and known.get(bare, {}).get("litellm_provider") == provider:
        entry = known[bare]
    if entry is None or "input_cost_per_token" not in entry:
        return None
    return Price(
        input=float(entry["input_cost_per_token"]) * _MILLION,
        output=float(entry.get("output_cost_per_token") or 0.0) * _MILLION,
    )


def _from_litellm(name: str) -> Price:
    """The price of a name in LiteLLM's map, or of the only provider whose entry ends in that name."""
    price = mapped_price(name)
    if price is None:
        known = _litellm_map()
        served = [key for key in known if key.endswith("/" + name)]
        if len(served) > 1:
            shown = ", ".join(served[:4])
            problem = f"LiteLLM has it at several providers ({shown})"
            raise InputError("prices", name, problem, "name one in a YAML table: {litellm: provider/model}")
        price = mapped_price(served[0]) if served else None
        if price is None:
            raise _unpriced(name, "LiteLLM's map", known)
    return price


@lru_cache(maxsize=1)
def _litellm_map() -> dict[str, Any]:
    """The map that comes with LiteLLM, read as a file, because importing LiteLLM accesses the network."""
    spec = find_spec("litellm")
    if spec is None or spec.origin is None:
        raise InputError("prices", LITELLM, "LiteLLM is not installed", "pip install 'router-rl[llm]'")
    return json.loads(Path(spec.origin).with_name(_MAP).read_text(encoding="utf-8"))
