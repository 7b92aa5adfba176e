"""Prices from YAML and from LiteLLM's map, costs from tokens, tables priced anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from experts import InputError, OutcomeTable, read_prices, reprice
from experts.table.price_template import price_template
from experts.table.prices import Price, token_costs

TABLE = """
date: 2024-07-01
prices:
  small: {call: 0.25}
  large-4.5:
    - {from: 2024-02-01, input: 5, output: 10}
    - {from: 2023-03-01, input: 20, output: 40}
"""


@pytest.fixture
def price_file(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a price table."""

    def write(text: str) -> Path:
        path = tmp_path / "prices.yaml"
        path.write_text(text)
        return path

    return write


def test_costs_from_tokens_by_hand() -> None:
    prices = [Price(input=10, output=30), Price(call=0.5), Price(input=2, output=2, call=1)]
    tokens_in = np.array([[1000, np.nan, 1e6], [0, np.nan, 0]])
    tokens_out = np.array([[100, np.nan, 5e5], [1e6, np.nan, 0]])
    np.testing.assert_allclose(
        token_costs(prices, tokens_in, tokens_out), [[0.013, 0.5, 4.0], [30.0, 0.5, 1.0]]
    )


def test_what_is_unknown_costs_nan_only_where_it_is_priced() -> None:
    cost = token_costs(
        [Price(input=1), Price(output=1)], np.array([[1.0, 1.0]]), np.array([[np.nan, np.nan]])
    )
    assert np.isfinite(cost[0, 0])
    assert np.isnan(cost[0, 1])


@pytest.mark.parametrize(
    ("on", "rate"), [(None, 5), ("2024-02-01", 5), ("2024-01-31", 20), ("2023-03-01", 20)]
)
def test_the_price_of_a_day(price_file: Callable[[str], Path], on: str | None, rate: float) -> None:
    found = read_prices(price_file(TABLE), ["small", "large-4.5"], on)
    assert found.prices["small"] == Price(call=0.25)
    assert found.prices["large-4.5"].input == rate
    assert found.source == f"prices.yaml of {on or '2024-07-01'}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prices: [1]", "has no mapping"),
        ("prices: {", "is not YAML"),
        ("prices: {large: {input: 1}}", r"prices='large-4.5'.*nearest: 'large'"),
        ("prices: {}", "has no mapping"),
        ("", "has no mapping"),
        ("prices: {large-4.5: 3}\nlarge-4.5: 3", "has the unknown key 'large-4.5'; beside `prices:`"),
        ("date: soon\nprices: {large-4.5: 3}", "date='soon': is not a date"),
        ("prices: {large-4.5: 3, large-4.5: 4}", "the key 'large-4.5' occurs twice"),
        ("prices: {large-4.5: true}", "is not a price; write"),
        ("prices: {large-4.5: .nan}", r"prices.large-4.5.input=nan: is not a price"),
        ("prices: {large-4.5: {input: null}}", r"prices.large-4.5.input=None: is not filled in"),
        ("prices: {large-4.5: {input: .inf}}", r"prices.large-4.5.input=inf: is not a price"),
        ("prices: {large-4.5: {input: true}}", r"prices.large-4.5.input=True: is not numeric"),
        ("prices: {large-4.5: {1: 3}}", "has unknown keys: 1"),
        ("prices: {large-4.5: [3]}", "is not a price; write"),
        ("prices: {large-4.5: []}", "is not a price; write"),
        ("prices: {large-4.5: {in: 3}}", "has unknown keys: in"),
        ("prices: {large-4.5: {}}", "is empty"),
        ("prices: {large-4.5: {input: cheap}}", "is not numeric"),
        ("prices: {large-4.5: {input: -1}}", r"prices.large-4.5.input=-1: is not a price"),
        ("prices: {large-4.5: [{from: 2030-01-01, input: 1}]}", "first price is of 2030-01-01"),
        ("prices: {large-4.5: [{from: soon, input: 1}]}", "is not a date"),
    ],
)
def test_mistakes_are_named(price_file: Callable[[str], Path], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prices(price_file(text), ["large-4.5"], "2024-01-01")


def test_no_file() -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_prices("absent.yaml", ["a"])


def test_no_text(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_bytes(b"prices: {\xe9: {input: 1}}")
    with pytest.raises(InputError, match="is not YAML"):
        read_prices(path, ["a"])


def test_litellm_by_name_and_through_yaml(price_file: Callable[[str], Path]) -> None:
    direct = read_prices("litellm", ["gpt-4o-mini-2024-07-18"])
    assert direct.prices["gpt-4o-mini-2024-07-18"] == Price(input=0.15, output=0.6)
    assert direct.source.startswith("LiteLLM ")
    alias = read_prices(price_file("prices: {mine: {litellm: gpt-4o-mini-2024-07-18}}"), ["mine"])
    assert alias.prices["mine"] == Price(input=0.15, output=0.6)
    with pytest.raises(InputError, match=r"LiteLLM's map has no price for it"):
        read_prices("litellm", ["no-such-model-of-ours"])


def test_a_table_priced_anew(
    columns: Callable[..., dict[str, Any]], price_file: Callable[[str], Path]
) -> None:
    prices = read_prices(price_file(TABLE), ["small", "large-4.5"])
    table = OutcomeTable(**columns(tokens_in=np.full((6, 2), 1e6), tokens_out=np.full((6, 2), 1e5)))
    found = reprice(table, prices)
    np.testing.assert_allclose(found.cost, np.tile([0.25, 6.0], (6, 1)))
    assert found.cost_unit == "usd"
    assert "prices: prices.yaml of 2024-07-01" in found.notes
    np.testing.assert_array_equal(found.quality, table.quality)
    with pytest.raises(InputError, match=r"large-4.5.*has no token counts"):
        reprice(OutcomeTable(**columns(tokens_in=None)), prices)


def test_a_tokenizers_column_stands_in(
    columns: Callable[..., dict[str, Any]], price_file: Callable[[str], Path]
) -> None:
    prices = read_prices(price_file(TABLE), ["small", "large-4.5"])
    extra = pa.table({"tokens_in/cl100k": [1_000_000] * 6})
    table = OutcomeTable(**columns(extra=extra, tokens_out=np.zeros((6, 2))))
    found = reprice(table, prices)
    np.testing.assert_allclose(found.cost[:, 1], 5.0)
    assert any("tokens_in/cl100k" in note for note in found.notes)


def test_a_flat_map_of_numbers_is_the_price_of_a_million_tokens(
    price_file: Callable[[str], Path],
) -> None:
    flat = read_prices(
        price_file("date: 2024-07-01\nsmall: 0.5\nlarge-4.5: {call: 2}\n"), ["small", "large-4.5"]
    )
    assert flat.prices == {"small": Price(input=0.5, output=0.5), "large-4.5": Price(call=2.0)}
    assert flat.source == "prices.yaml of 2024-07-01"
    nested = read_prices(price_file("prices: {small: 0.5}"), ["small"])
    assert nested.prices["small"] == flat.prices["small"]


def test_the_template_reads_back_once_it_is_filled_in(price_file: Callable[[str], Path]) -> None:
    names = ["gpt-4o-mini-2024-07-18", "mine: [red]\n", "no", "5", "long " * 50]
    text, unpriced = price_template(names)
    assert unpriced == tuple(names[1:])
    with pytest.raises(InputError, match="is not filled in"):
        read_prices(price_file(text), names)
    filled = read_prices(price_file(text.replace("null", "2")), names)
    assert filled.prices[names[0]] == Price(input=0.15, output=0.6)
    assert all(filled.prices[name] == Price(input=2, output=2) for name in unpriced)
