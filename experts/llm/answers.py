"""What every model made of every prompt: arrays that become an outcome table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..io.errors import InputError
from ..table.outcome_table import OutcomeTable
from ..table.prices import PriceTable, token_costs
from ..table.splitting import complete_split
from .endpoints import Endpoint
from .questions import Questions

__all__ = ["Answers"]

_NUMBERS = ("quality", "tokens_in", "tokens_out", "latency_s")


class Answers:
    """Outcomes [T, N] as they become known, and why others are missing.

    Args:
        questions: T prompts.
        endpoints: N models.
        prices: what they charge.
    """

    def __init__(self, questions: Questions, endpoints: Sequence[Endpoint], prices: PriceTable) -> None:
        self.questions = questions
        self.endpoints = tuple(endpoints)
        self.prices = prices
        shape = (len(questions), len(endpoints))
        self.numbers = {name: np.full(shape, np.nan, dtype=np.float32) for name in _NUMBERS}
        self.missing: dict[tuple[int, int], str] = {}
        self.cut_off = np.zeros(len(endpoints), dtype=np.int64)

    def fill(self, row: int, column: int, record: dict[str, Any]) -> None:
        """Note an answer; its quality comes later."""
        for name in ("tokens_in", "tokens_out", "latency_s"):
            self.numbers[name][row, column] = np.nan if record[name] is None else record[name]
        self.cut_off[column] += record["finish_reason"] == "length"

    def score(self, row: int, column: int, quality: float) -> None:
        """Note how good an answer is."""
        self.numbers["quality"][row, column] = quality

    def miss(self, row: int, column: int, reason: str) -> None:
        """Note why there is no answer, or nobody knows how good it is."""
        self.missing[row, column] = reason

    def check(self, seed: int) -> None:
        """Check that these prompts and models make a table, before anything is paid for.

        Raises:
            InputError: names the column, the row and the fix.
        """
        zeros = np.zeros_like(self.numbers["quality"])
        self._table(zeros, zeros, "", seed, ())

    def table(self, source: str, seed: int) -> OutcomeTable:
        """The queries that every model answered, the others being counted in the notes.

        Args:
            source: where the outcomes come from, in words.
            seed: of the split, where the prompts have none. All prompts are split, so that a query which is
                answered later changes no other's place.

        Raises:
            InputError: there are none.
        """
        whole = np.asarray(np.isfinite(self.numbers["quality"]).all(axis=1))
        names = [endpoint.name for endpoint in self.endpoints]
        if not whole.any():
            worst = Counter(column for _, column in self.missing).most_common(1)[0][0]
            reason = next(reason for (_, column), reason in self.missing.items() if column == worst)
            problem = f"no query was answered by every model; this one failed with: {reason}"
            fix = "correct it or drop the model; the same command asks again for what is missing"
            raise InputError("models", names[worst], problem, fix)
        notes = (f"prices: {self.prices.source}",)
        if not whole.all():
            by_model = Counter(names[column] for _, column in self.missing)
            counts = ", ".join(f"{name} ({count})" for name, count in by_model.items())
            left_out = len(whole) - int(whole.sum())
            notes += (f"missing: {left_out} of {len(whole)} queries left out, not answered by {counts}",)
        # Where something is missing the row is not taken, so anything valid may stand there.
        quality, cost = np.nan_to_num(self.numbers["quality"]), np.nan_to_num(self.cost())
        return self._table(quality, cost, source, seed, notes).take(whole)

    def cost(self) -> np.ndarray:
        """US dollars [T, N] float64 of the answers, NaN where there is none."""
        prices = [self.prices.prices[endpoint.name] for endpoint in self.endpoints]
        return token_costs(prices, self.numbers["tokens_in"], self.numbers["tokens_out"])

    def summary(self) -> dict[str, dict[str, Any]]:
        """For each model by name what it answered and what that took; see `Collected.models`."""
        found: dict[str, dict[str, Any]] = {}
        cost = self.cost()
        for column, endpoint in enumerate(self.endpoints):
            numbers = {name: values[:, column] for name, values in self.numbers.items()}
            reasons = [reason for (_, other), reason in self.missing.items() if other == column]
            found[endpoint.name] = {
                "answered": int(np.isfinite(numbers["tokens_out"]).sum()),
                "missing": len(reasons),
                "reasons": dict(Counter(reason.split(":")[0] for reason in reasons)),
                "cut_off": int(self.cut_off[column]),
                "quality": _mean(numbers["quality"]),
                "latency_s": _mean(numbers["latency_s"]),
                "tokens_out": int(np.nansum(numbers["tokens_out"])),
                "usd": float(np.nansum(cost[:, column])),
            }
        return found

    def _table(
        self, quality: np.ndarray, cost: np.ndarray, source: str, seed: int, notes: tuple[str, ...]
    ) -> OutcomeTable:
        asked = self.questions
        columns = {"query_id": asked.query_id, "prompt": asked.prompt, "split": asked.split, "notes": notes}
        return OutcomeTable(
            experts=tuple(endpoint.name for endpoint in self.endpoints),
            features=None,
            quality=quality,
            cost=cost,
            tokens_in=self.numbers["tokens_in"],
            tokens_out=self.numbers["tokens_out"],
            latency_s=self.numbers["latency_s"],
            cost_unit="usd",
            source=source,
            group=asked.group,
            **complete_split(columns, seed),
        )


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=float)) if len(known) else None
