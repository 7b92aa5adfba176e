"""The answers of every model to every prompt, as arrays that become an outcome table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..io.errors import InputError
from ..table.outcome_table import OutcomeTable
from ..table.prices import PriceTable, token_costs
from ..table.splitting import complete_split
from .endpoints import Endpoint
from .questions import Questions

__all__ = ["UNSENT", "Answers"]

UNSENT = "not sent: the cost cap is reached"

_NUMBERS = ("quality", "tokens_in", "tokens_out", "latency_s")


class Answers:
    """Outcomes [T, N], filled in one by one, and the reasons for missing ones.

    Args:
        questions: T prompts.
        endpoints: N models.
        prices: of the models.
    """

    def __init__(self, questions: Questions, endpoints: Sequence[Endpoint], prices: PriceTable) -> None:
        self.questions = questions
        self.endpoints = tuple(endpoints)
        self.prices = prices
        shape = (len(questions), len(endpoints))
        self.numbers = {name: np.full(shape, np.nan, dtype=np.float32) for name in _NUMBERS}
        self.texts: np.ndarray | None = None  # [T, N] of str or None: what the scorer reads of each answer
        self.confidence: np.ndarray | None = None  # [T, N] float32: the verdicts of verifiers
        self.missing: dict[tuple[int, int], str] = {}
        self.cut_off = np.zeros(len(endpoints), dtype=np.int64)

    def fill(self, row: int, column: int, record: dict[str, Any]) -> None:
        """Store the tokens and latency of an answer.

        Args:
            row: of the prompt.
            column: of the model.
            record: of the answer, see `Reply`.
        """
        for name in ("tokens_in", "tokens_out", "latency_s"):
            self.numbers[name][row, column] = np.nan if record[name] is None else record[name]
        self.cut_off[column] += record["finish_reason"] == "length"

    def score(self, row: int, column: int, quality: float) -> None:
        """Store the quality of an answer.

        Args:
            row: of the prompt.
            column: of the model.
            quality: in [0, 1].
        """
        self.numbers["quality"][row, column] = quality

    def read(self, row: int, column: int, text: str | None) -> None:
        """Store what the scorer reads of an answer, which says whether two models agree.

        Args:
            row: of the prompt.
            column: of the model.
            text: such as the final number; None where the answer has none.
        """
        if self.texts is None:
            self.texts = np.full(self.numbers["quality"].shape, None, dtype=object)
        self.texts[row, column] = text

    def verify(self, row: int, column: int, answer: int, verdict: float) -> None:
        """Store the verdict of a verifier, whose column has the quality and the text of the answer.

        Args:
            row: of the prompt.
            column: of the verifier and the answer.
            answer: column of the answer.
            verdict: in [0, 1].
        """
        if self.confidence is None:  # answers have no confidences of their own
            self.confidence = np.full(self.numbers["quality"].shape, 0.5, dtype=np.float32)
        self.confidence[row, column] = verdict
        self.score(row, column, self.numbers["quality"][row, answer])
        if self.texts is not None:
            self.texts[row, column] = self.texts[row, answer]

    def miss(self, row: int, column: int, reason: str) -> None:
        """Store the reason why there is no answer, or no quality for it.

        Args:
            row: of the prompt.
            column: of the model.
            reason: one sentence.
        """
        self.missing[row, column] = reason

    def check(self, seed: int) -> None:
        """Check that these prompts and models make a valid table, before any request is paid for.

        Args:
            seed: of the split, if the prompts have none.

        Raises:
            InputError: names the column, the row and the fix.
        """
        zeros = np.zeros_like(self.numbers["quality"])
        self._table(zeros, zeros, "", seed, ())

    def table(self, source: str, seed: int) -> OutcomeTable:
        """Return the table of the queries that every model answered; its notes count the others.

        Args:
            source: a description of where the outcomes come from.
            seed: of the split, if the prompts have none. All prompts are split, so that a query that is
                answered later does not change the split of the others.

        Raises:
            InputError: no query was answered by every model.
        """
        whole = self.complete()
        names = [endpoint.name for endpoint in self.endpoints]
        if not whole.any():
            worst = Counter(column for _, column in self.missing).most_common(1)[0][0]
            reason = next(reason for (_, column), reason in self.missing.items() if column == worst)
            problem = f"no query was answered by every model; this one failed with: {reason}"
            fix = "correct it or drop the model; the same command repeats the missing requests"
            raise InputError("models", names[worst], problem, fix)
        notes = (f"prices: {self.prices.source}",)
        if not whole.all():
            by_model = Counter(names[column] for _, column in self.missing)
            counts = ", ".join(f"{name} ({count})" for name, count in by_model.items())
            left_out = len(whole) - int(whole.sum())
            notes += (f"missing: {left_out} of {len(whole)} queries left out, not answered by {counts}",)
        # Rows with a missing value are not taken, so any valid number will do there.
        quality, cost = np.nan_to_num(self.numbers["quality"]), np.nan_to_num(self.cost())
        return self._table(quality, cost, source, seed, notes).take(whole)

    def complete(self) -> np.ndarray:
        """Return which queries every model answered, [T] bool."""
        return np.asarray(np.isfinite(self.numbers["quality"]).all(axis=1))

    def cost(self) -> np.ndarray:
        """Return the cost of the answers, [T, N] float64 in US dollars, NaN without an answer."""
        prices = [self.prices.prices[endpoint.name] for endpoint in self.endpoints]
        return token_costs(prices, self.numbers["tokens_in"], self.numbers["tokens_out"])

    def summary(self) -> dict[str, dict[str, Any]]:
        """Return the statistics of each model by name, see `Collected.models`."""
        statistics: dict[str, dict[str, Any]] = {}
        cost = self.cost()
        for column, endpoint in enumerate(self.endpoints):
            numbers = {name: values[:, column] for name, values in self.numbers.items()}
            reasons = [reason for (_, other), reason in self.missing.items() if other == column]
            statistics[endpoint.name] = {
                "answered": int(np.isfinite(numbers["tokens_out"]).sum()),
                "missing": len(reasons),
                "reasons": dict(Counter(reason.split(":")[0] for reason in reasons)),
                "cut_off": int(self.cut_off[column]),
                "quality": _mean(numbers["quality"]),
                "latency_s": _mean(numbers["latency_s"]),
                "tokens_out": int(np.nansum(numbers["tokens_out"])),
                "usd": float(np.nansum(cost[:, column])),
            }
        return statistics

    def _table(
        self, quality: np.ndarray, cost: np.ndarray, source: str, seed: int, notes: tuple[str, ...]
    ) -> OutcomeTable:
        prompts = self.questions
        columns = {
            "query_id": prompts.query_id,
            "prompt": prompts.prompt,
            "split": prompts.split,
            "notes": notes,
        }
        return OutcomeTable(
            experts=tuple(endpoint.name for endpoint in self.endpoints),
            features=None,
            quality=quality,
            cost=cost,
            tokens_in=self.numbers["tokens_in"],
            tokens_out=self.numbers["tokens_out"],
            latency_s=self.numbers["latency_s"],
            confidence=self.confidence,
            cost_unit="usd",
            source=source,
            group=prompts.group,
            extra=self._extra(),
            **complete_split(columns, seed),
        )

    def _extra(self) -> pa.Table | None:
        """Return the columns `answer/<model>`, which cascades read."""
        if self.texts is None:
            return None
        names = [f"answer/{endpoint.name}" for endpoint in self.endpoints]
        return pa.table(
            {name: pa.array(list(self.texts[:, at]), pa.string()) for at, name in enumerate(names)}
        )


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean(dtype=float)) if len(known) else None
