"""The queues of one episode over time: what a policy lets grow, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch

from ...methods.queueing.queue_rules import QueuePolicy
from ..problem import Case, Figure, Row, Traces
from .problem import QueueProblem

__all__ = ["timeline_figures", "trace"]

_REQUESTS = 256
_WIDTH, _ROW, _LEFT = 720, 26, 190
_SHOWN = ("rollout_iteration", "index_rule_late", "index_rule", "least_wait", "static_gate")
_MOST = 4  # methods drawn


@torch.inference_mode()
def trace(problem: QueueProblem, policy: QueuePolicy, case: Case) -> dict[str, Any]:
    """Requests at each expert as the first requests of one test episode found them."""
    task = problem.tasks[case.values["load"]]
    core = task.core("test", 1, seed=800_000)
    features, experts = core.outcomes.features.shape[1], core.experts
    act, found = policy.begin(), []
    for _ in range(min(_REQUESTS, core.config.window)):
        seen = core.observation()
        waiting, taken, down = seen[0, features : features + 3 * experts].reshape(3, experts)
        found.append(
            {"second": float(core.now), "jobs": (waiting + taken).tolist(), "down": down.bool().tolist()}
        )
        core.step(act(core, seen))
    return {"experts": list(task.table.experts), "case": case.label, "seen": found}


def timeline_figures(traces: Traces, summary: Sequence[Row]) -> list[Figure]:
    """One picture with a panel a method, all on the same scale."""
    names = [name for name in _SHOWN if name in traces][:_MOST] or list(traces)[:_MOST]
    panels = [(name, traces[name]) for name in names]
    most = max(max(moment["jobs"]) for _, one in panels for moment in one["seen"])
    end = max(one["seen"][-1]["second"] for _, one in panels) or 1.0
    height = sum(_ROW * (len(one["experts"]) + 1) + 14 for _, one in panels) + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 10} {height}" '
        f'width="{_LEFT + _WIDTH + 10}" role="img"><title>Queues over time</title>'
    ]
    top = 0
    for name, one in panels:
        parts.append(f'<text x="0" y="{top + 18}" style="font-weight:bold">{escape(name)}</text>')
        top += _ROW
        for expert, label in enumerate(one["experts"]):
            parts.append(_lane(one["seen"], expert, label, top, most, end))
            top += _ROW
        top += 14
    parts.append(f'<text x="{_LEFT}" y="{top + 10}">0 s</text>')
    parts.append(f'<text x="{_LEFT + _WIDTH}" y="{top + 10}" text-anchor="end">{_seconds(end)}</text></svg>')
    note = (
        f"One test episode at {panels[0][1]['case']}, its first {len(panels[0][1]['seen'])} requests: "
        f"requests at each expert, waiting or at work, as each arrival found them; a row is {most:g} high. "
        "Grey: the expert was down. All methods met the same requests."
    )
    return [Figure(title="Queues over time", note=note, svg="".join(parts))]


def _seconds(value: float) -> str:
    """A time in at least three figures, without an exponent where it is long.

    >>> _seconds(1394.2), _seconds(0.00123)
    ('1,394 s', '0.00123 s')
    """
    return f"{value:,.0f} s" if value >= 100.0 else f"{value:.3g} s"


def _lane(
    seen: Sequence[Mapping[str, Any]], expert: int, label: str, top: int, most: float, end: float
) -> str:
    """One expert's row: a filled step line, and grey where it is down."""
    floor, tall = top + _ROW - 4, _ROW - 6
    path, last = [f"M{_LEFT} {floor}"], floor
    grey: list[str] = []
    for place, moment in enumerate(seen):
        x = _LEFT + _WIDTH * moment["second"] / end
        y = floor - tall * moment["jobs"][expert] / max(most, 1.0)
        if y != last:
            path.append(f"H{x:.1f}V{y:.1f}")
            last = y
        if moment["down"][expert] and place + 1 < len(seen):
            wide = _WIDTH * (seen[place + 1]["second"] - moment["second"]) / end
            grey.append(f'<rect x="{x:.1f}" y="{top}" width="{wide:.1f}" height="{_ROW - 4}" fill="#8884"/>')
    path.append(f"H{_LEFT + _WIDTH}V{floor}Z")
    short = label if len(label) <= 26 else label[:25] + "…"
    return (
        f'<text x="{_LEFT - 8}" y="{floor - 4}" text-anchor="end">{escape(short)}</text>'
        f'{"".join(grey)}<path d="{"".join(path)}" fill="#2563ab99"/>'
        f'<path d="M{_LEFT} {floor}H{_LEFT + _WIDTH}" stroke="#8886"/>'
    )
