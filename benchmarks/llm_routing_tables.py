"""The tables of `llm_routing.py` as Markdown."""

from __future__ import annotations

from typing import Any

from llm_floors import CONSTANTS, FLOORS

from router_rl.reports.table_format import signed

# RouteLLM, Ong et al. 2024, tables 1 to 3, https://arxiv.org/abs/2406.18665: its best APGR on these queries.
_ARENA = "Chatbot Arena's preferences"
PUBLISHED = {
    "routellm_mmlu": (0.603, f"{_ARENA} and some 1,500 golden labels of MMLU's validation questions"),
    "routellm_gsm8k": (0.622, f"{_ARENA} and answers compared by a GPT-4 judge"),
    "routellm_mtbench": (0.802, f"{_ARENA} and answers compared by a GPT-4 judge"),
}
# The same floors on the same folds by another implementation: AIQ, and APGR where there are two experts.
ELSEWHERE = {
    "llmdrift_math": {"group": (0.7518,), "text ridge": (0.7513,), "ridge+group": (0.7519,)},
    "llmrouter_pool9": {"group": (0.6823,), "text ridge": (0.6584,), "ridge+group": (0.6779,)},
    "routellm_gsm8k": {
        "group": (0.7475, 0.450),
        "text ridge": (0.7722, 0.619),
        "ridge+group": (0.7706, 0.614),
    },
    "routellm_mmlu": {
        "group": (0.7661, 0.680),
        "text ridge": (0.7639, 0.668),
        "ridge+group": (0.7675, 0.698),
    },
    "routellm_mtbench": {
        "group": (0.9019, 0.668),
        "text ridge": (0.8925, 0.656),
        "ridge+group": (0.9008, 0.678),
    },
    "zeroeval_pool27": {"group": (0.8396,), "text ridge": (0.8174,), "ridge+group": (0.8310,)},
}
RL = ("priced_pg", "conditioned_pg", "exact_pg")
_PLAIN = (*FLOORS, *CONSTANTS, "zero router", "oracle")


def shown(name: str, found: dict[str, Any]) -> str:
    """The results of one table."""
    facts, ranked = found["facts"], "apgr_less" in found
    floor = max(FLOORS, key=lambda each: facts[each]["aiq"]["value"])
    best = max(FLOORS, key=lambda each: (facts[each].get("apgr") or {"value": 0.0})["value"])
    heads = ["method", "AIQ", "minus zero router", f"minus best floor ({floor})"]
    if ranked:
        heads += ["APGR", f"minus best floor ({best})"]
    lines = [f"### {name}\n", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    order = sorted(facts.items(), key=lambda item: -item[1]["aiq"]["value"])
    for method, one in order:
        cells = [_named(method), _interval(one["aiq"]), _interval(one["aiq_above_zero"], sign=True)]
        cells.append(_interval(found["aiq_less"].get(method, {}).get(floor), sign=True))
        if ranked:
            gap = found["apgr_less"].get(method, {}).get(best)
            cells += [_interval(one.get("apgr")), _interval(gap, sign=True)]
        lines.append(f"| {' | '.join(cells)} |")
    heads = ["method", "cost saved", "quality gained", "RouterArena"] + ["CPT(50)", "CPT(80)"] * ranked
    lines += ["", f"| {' | '.join(heads)} |", "|---|" + "---:|" * (len(heads) - 1)]
    for method, one in order:
        cells = [_named(method), _interval(one["cost_saved"]), _interval(one["quality_gained"], sign=True)]
        cells += [_interval(one["router_arena"])]
        cells += [_interval(one.get("cpt50")), _interval(one.get("cpt80"))] * ranked
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_rivals(found), *_beside(name)]) + "\n"


def curve_shown(curve: dict[str, Any]) -> str:
    """A learning curve."""
    methods = list(next(iter(curve.values())))
    lines = [
        f"| share of training rows | {' | '.join(map(_named, methods))} |",
        "|---|" + "---:|" * len(methods),
    ]
    for fraction, facts in curve.items():
        lines.append(f"| {fraction} | {' | '.join(_interval(facts[method]) for method in methods)} |")
    return "AIQ by training rows:\n\n" + "\n".join(lines) + "\n"


def prices_shown(facts: dict[str, Any]) -> str:
    """What changed prices cost a router."""
    lines = ["### Prices changed", "", "| router | utility | regret to retraining |", "|---|---:|---:|"]
    for label, one in facts.items():
        regret = _interval({"value": one["regret"], "ci95": one["ci95"]}, sign=True)
        lines.append(f"| {label} | {one['utility']:.4f} | {regret} |")
    return "\n".join(lines) + "\n"


def _rivals(found: dict[str, Any]) -> list[str]:
    """Differences of every RL method to every baseline."""
    lines: list[str] = []
    for metric, key in (("AIQ", "aiq_less"), ("APGR", "apgr_less")):
        rows = {method: found[key][method] for method in RL if method in found.get(key, {})}
        rivals = list(dict.fromkeys(rival for gaps in rows.values() for rival in gaps))
        if rows:
            lines += [
                f"| {metric} minus that of | {' | '.join(map(_named, rivals))} |",
                "|---|" + "---:|" * len(rivals),
            ]
        for method, gaps in rows.items():
            lines.append(
                f"| {_named(method)} | {' | '.join(_interval(gaps[each], sign=True) for each in rivals)} |"
            )
        lines += [""] if rows else []
    return lines


def _beside(name: str) -> list[str]:
    """Numbers that others report for the same queries."""
    said: list[str] = []
    if name in ELSEWHERE:
        parts = [
            f"{floor} {' / '.join(f'{value:.{4 - i}f}' for i, value in enumerate(values))}"
            for floor, values in ELSEWHERE[name].items()
        ]
        kind = "AIQ / APGR" if len(ELSEWHERE[name]["group"]) > 1 else "AIQ"
        said.append(f"Floors of another implementation ({kind}): {', '.join(parts)}.")
    if name in PUBLISHED:
        value, data = PUBLISHED[name]
        said.append(f"RouteLLM's best published APGR on these queries: {value:.3f}, trained on {data}.")
    return said


def _named(method: str) -> str:
    return method if method in _PLAIN else f"`{method}`"


def _interval(found: dict[str, Any] | None, sign: bool = False) -> str:
    if found is None:
        return "-"
    value, low, high = (
        signed(number) if sign else f"{round(number, 4) + 0.0:.4f}"
        for number in (found["value"], *found["ci95"])
    )
    return f"{value} ({low} to {high})"
