"""The recommendation in words: what to ship, what it costs, what it saves, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..reports.number_format import amount
from ..reports.results_table import cost_unit_named

__all__ = ["sentence_of"]

_NO_GAP = 0.01  # a gap to the oracle below this leaves nothing to route for


def sentence_of(facts: Mapping[str, Any]) -> str:
    """Return the recommendation in a few sentences.

    Args:
        facts: the recommendation, without its sentence.
    """
    what = facts["expert"] or facts["method"]
    scope = " for every query" if facts["expert"] else f" ({facts['case']})"
    parts = [f"Use {what}{scope}: {_earned(facts)}."]
    target = facts.get("target")
    if target is not None and not target["satisfied"]:
        parts.append(f"No operating point satisfies {_limits(target)}: this is the best single expert.")
    elif target is not None:
        parts.append(f"It satisfies {_limits(target)} on the validation rows.")
    if facts["routing_pays"] or (target is not None and target["satisfied"]):
        parts += [_compared(each) for each in facts.get("comparisons", ())]
    if facts["routing_pays"]:
        parts += _at_equal_quality(facts)
        if not facts.get("comparisons"):
            parts += _over_constant(facts)
    elif target is None:
        parts.append(_why_not(facts))
    return " ".join(parts)


def _earned(facts: Mapping[str, Any]) -> str:
    quality = facts.get("quality")
    if quality is None:
        low, high = facts["utility_ci95"]
        return f"utility {facts['utility_mean']:.4f} (95% CI {low:.4f} to {high:.4f})"
    low, high = quality["ci95"]
    cost = facts["cost"]
    unit = cost_unit_named(cost["unit"])
    text = f"quality {quality['mean']:.3f} (95% CI {low:.3f} to {high:.3f})"
    return text if unit is None else f"{text} at {unit.text(cost['mean'])}"


def _compared(each: Mapping[str, Any]) -> str:
    difference, saved = each["quality_difference"], each["cost_saved"]
    low, high = difference["ci95"]
    text = f"Compared with {each['expert']}, the {each['role']}: quality {difference['mean']:+.3f} "
    text += f"({low:+.3f} to {high:+.3f})"
    if saved is None:
        return f"{text}."
    share, low, high = (abs(100.0 * value) for value in (saved["share"], *saved["ci95"]))
    side = "lower" if saved["share"] >= 0 else "higher"
    return f"{text}, cost {share:.0f}% {side} ({min(low, high):.0f} to {max(low, high):.0f})."


def _at_equal_quality(facts: Mapping[str, Any]) -> list[str]:
    saved = facts.get("cost_saved")
    if saved is None:
        return []
    share, low, high = (100.0 * value for value in (saved["value"], *saved["ci95"]))
    span = f"{share:.0f}% ({low:.0f} to {high:.0f})"
    return [f"Over its operating points it saves {span} of the cost at equal quality."]


def _over_constant(facts: Mapping[str, Any]) -> list[str]:
    gain, other = facts["difference_to_constant"], facts["alternative"]
    if gain is None or other is None:
        return []
    low, high = gain["ci95"]
    return [f"Compared with {other['method']}: {gain['mean']:+.4f} ({low:+.4f} to {high:+.4f})."]


def _why_not(facts: Mapping[str, Any]) -> str:
    gap, gain = facts.get("oracle_gap"), facts["difference_to_constant"]
    text = "Routing does not pay here:"
    if gap is not None and gap < _NO_GAP:
        return f"{text} even the oracle, which knows every outcome, gains only {gap:.4f} utility."
    if gain is None:
        return f"{text} no method is better on validation."
    low, high = gain["ci95"]
    change = f"{facts['best_method']}, the best method on validation, {gain['mean']:+.4f}"
    change += f" ({low:+.4f} to {high:+.4f})"
    if high < 0.0:
        return f"{text} {change} is significantly worse."
    rows = facts.get("rows_to_settle")
    if rows is None or gain["mean"] <= 0.0:
        return f"{text} {change} is not better on test rows."
    return f"{text} {change} is not significantly better; about {rows:,} more test rows would settle it."


def _limits(target: Mapping[str, Any]) -> str:
    texts = {
        "budget_usd": lambda value: f"a budget of US$ {amount(value)} per 1,000 queries",
        "max_quality_loss": lambda value: f"a quality loss of at most {value:g}",
        "save_at_least": lambda value: f"a saving of at least {100.0 * value:.0f}%",
    }
    return " and ".join(text(target[name]) for name, text in texts.items() if name in target)
