"""Metrics of a server: in Prometheus' format, and as JSON for the live page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from experts.llm.spending import cost_of
from experts.table.prices import Price

from .decision import Decision

__all__ = ["Counters"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Counters:
    """Counts requests, money and failures of one process.

    Args:
        prices: prices of the models, by name.
        called: prices of what a router calls beside them: further samples and verifiers, by name.

    Attributes:
        reference: the expert that savings are compared with: the most expensive one.
    """

    def __init__(self, prices: dict[str, Price], called: Mapping[str, Price] | None = None) -> None:
        self.registry = CollectorRegistry()
        self._prices, self._names = prices, tuple(dict.fromkeys((*prices, *(called or ()))))
        self.reference = max(prices, key=lambda name: cost_of(prices[name], 1_000, 1_000))
        self._began = time.time()
        self._requests = Counter(
            "router_rl_requests",
            "Attempts to answer a request.",
            ("expert", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "router_rl_latency_seconds",
            "Seconds of an answered request.",
            ("expert",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._decisions = Histogram(
            "router_rl_decision_seconds", "Seconds of a decision.", buckets=_SECONDS, registry=self.registry
        )
        self._explored = Counter(
            "router_rl_explored", "Decisions that are not the router's choice.", registry=self.registry
        )
        self._cost = Counter(
            "router_rl_cost_usd", "Cost of the answers, US dollars.", ("expert",), registry=self.registry
        )
        self._saved = Counter(
            "router_rl_reference_cost_usd",
            "Cost if the most expensive expert had answered.",
            registry=self.registry,
        )
        self._failures = Counter(
            "router_rl_failures", "Failed attempts.", ("expert",), registry=self.registry
        )
        self._in_flight, self._queued, self._limited, self._backs_off = (
            Gauge(f"router_rl_{name}", help_text, ("expert",), registry=self.registry)
            for name, help_text in (
                ("in_flight", "Requests that were sent to a model and have no answer yet."),
                ("queued", "Requests in flight beyond those that the model processes concurrently."),
                ("rate_limited", "1 while no request may be sent to the model."),
                ("backs_off", "1 while the model is excluded because it failed."),
            )
        )
        self._waiting = Gauge(
            "router_rl_log_waiting", "Rows that wait to be written to the log.", registry=self.registry
        )
        self._lost = Gauge("router_rl_log_lost", "Decisions that are not in the log.", registry=self.registry)

    def decided(self, decision: Decision | None, seconds: float) -> None:
        """Count a decision.

        Args:
            decision: None if the client named the expert.
            seconds: duration of the decision.
        """
        if decision is not None:
            self._decisions.observe(seconds)
            if decision.propensity < max(decision.propensities.values()):
                self._explored.inc()

    def ended(
        self, expert: str, status: str, seconds: float, usd: float | None, tokens: tuple[int, int] | None
    ) -> None:
        """Count the end of an attempt.

        Args:
            expert: name of the expert.
            status: `ok`, `failed`, `cut` or `gone`.
            seconds: time from the decision to the end.
            usd: cost in US dollars, if known.
            tokens: prompt and answer tokens that the most expensive expert would have had; None if they are
                unknown, or were counted with an earlier attempt that answered the same request.
        """
        self._requests.labels(expert, status).inc()
        if status == "ok":
            self._seconds.labels(expert).observe(seconds)
        if usd is not None:
            self._cost.labels(expert).inc(usd)
        if tokens is not None:
            self._saved.inc(cost_of(self._prices[self.reference], *tokens))

    def failed(self, expert: str) -> None:
        """Count a failure of an expert."""
        self._failures.labels(expert).inc()

    def set_log(self, waiting: int, lost: int) -> None:
        """Set the gauges of the log.

        Args:
            waiting: number of rows that wait to be written.
            lost: number of decisions that will never be in the log.
        """
        self._waiting.set(waiting)
        self._lost.set(lost)

    def set_queues(self, status: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the gauges of each expert's queue.

        Args:
            status: result of `Decider.queue_status`.
        """
        for name, each in status.items():
            self._in_flight.labels(name).set(each["in_flight"])
            if each["waiting"] is not None:
                self._queued.labels(name).set(each["waiting"])
            self._limited.labels(name).set(each["excluded"] == "rate limited")
            self._backs_off.labels(name).set(each["excluded"] == "failed recently")

    def prometheus(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def summary(self) -> dict[str, Any]:
        """Return requests, money, latency and failures by expert, as JSON."""
        experts = {
            name: {
                "answered": self._value("router_rl_requests_total", expert=name, status="ok"),
                "failed": self._value("router_rl_failures_total", expert=name),
                "usd": self._value("router_rl_cost_usd_total", expert=name),
                "mean_latency_s": self._mean_latency(name),
            }
            for name in self._names
        }
        spent = sum(each["usd"] or 0.0 for each in experts.values())
        reference_usd = self._value("router_rl_reference_cost_usd_total")
        return {
            "seconds": time.time() - self._began,
            "experts": experts,
            "explored": self._value("router_rl_explored_total"),
            "usd": spent,
            "reference": self.reference,
            "reference_usd": reference_usd,
        }

    def _value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def _mean_latency(self, expert: str) -> float | None:
        count = self._value("router_rl_latency_seconds_count", expert=expert)
        total = self._value("router_rl_latency_seconds_sum", expert=expert)
        return total / count if count else None
