"""Check what `make demo` wrote: the schema, who is in the tables, and that learning pays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

METHODS = {
    "ppo": "rl",
    "exact_pg": "rl",
    "warm_exact_pg": "rl",
    "softmax_gate": "gate",
    "switch_gate": "gate",
    "ridge": "baseline",
    "knn": "baseline",
    "kernel": "baseline",
    "cluster": "baseline",
    "guarded_knn": "baseline",
    "boosted_trees": "baseline",
    "random": "baseline",
    "best_single": "baseline",
    "zero_router": "baseline",
    "oracle": "bound",
}
ROW = {"method", "family", "compute_weight", "load_weight", "seed", "split", "quality", "cost", "compute"}
ROW |= {"load_cv", "utility", "fit_seconds", "collapsed", "collapse"}
COLLAPSE = {"one_expert", "below_best_single", "entropy", "largest_share", "never_chosen"}
COLLAPSE |= {"regret_to_best_single", "reasons", "problems"}


def check(folder: Path) -> None:
    """Raise AssertionError where something is missing or wrong."""
    check_digits(folder)
    check_language_models(folder / "language_models")


def check_digits(folder: Path) -> None:
    """Check the comparison of the digit classifiers."""
    results = json.loads((folder / "results.json").read_text())
    assert results["schema_version"] == 2
    assert results["problem"]["name"] == "routing"
    assert len(results["problem"]["experts"]) >= 6
    weights = [case["values"]["compute_weight"] for case in results["cases"]]
    assert len(weights) >= 3
    assert len(results["seeds"]) >= 3
    rows = [row for row in results["rows"] if row["split"] == "test"]
    assert all(set(row) >= ROW for row in rows)
    for method, family in METHODS.items():
        found = [row for row in rows if row["method"] == method]
        assert {row["family"] for row in found} == {family}, method
        assert len(found) == len(weights) * len(results["seeds"]), method
    assert all((row["collapse"] is not None) == (row["family"] in ("rl", "gate")) for row in rows)
    assert all(set(row["collapse"]) == COLLAPSE for row in rows if row["collapse"] is not None)
    assert not [row for row in rows if row["method"] == "ppo" and row["collapse"]["problems"]]
    for weight in weights:
        mean = {s["method"]: s["utility_mean"] for s in results["summary"] if s["compute_weight"] == weight}
        assert mean["ppo"] > mean["best_single"] > mean["random"], (weight, mean)
        assert mean["oracle"] >= max(mean.values()), (weight, mean)
    rivals = [s["paired_difference_to_best_rival"] for s in results["summary"] if s["method"] == "ppo"]
    assert all(rival["ci95"][0] <= rival["mean"] <= rival["ci95"][1] for rival in rivals)
    assert len(results["rl_verdicts"]) == len(weights)
    assert sum(line.startswith("Compute weight") for line in results["verdict"]) == len(weights)
    assert all(
        frontier["points"] == len(weights) for name, frontier in results["frontier"].items() if name == "ppo"
    )
    assert any("of the cost saved" in line for line in results["verdict"])
    assert results["recommendation"]["routing_pays"]
    assert results["recommendation"]["sentence"].startswith("Use ")
    for verdict in results["rl_verdicts"]:
        low, high = verdict["ci95"]
        expected = "better" if low > 0 else "worse" if high < 0 else "no significant difference"
        assert verdict["outcome"] == ("same policy" if verdict["same_as"] else expected)
    for line in results["summary"]:
        low, high = line["utility_iqm_ci95"]
        assert low <= line["utility_iqm"] <= high, line["method"]
    assert results["table_facts"]["oracle_quality"] > results["table_facts"]["best_single_quality"] + 0.05
    assert "<html" in (folder / "report.html").read_text()
    check_router(folder / "router", "torch.zeros(3, r.features)")


def check_language_models(folder: Path) -> None:
    """Check the comparison of the language models: prompts, and a recommendation in US$."""
    results = json.loads((folder / "results.json").read_text())
    assert results["problem"]["experts"] == ["gpt-4-1106-preview", "mixtral-8x7b-instruct-v0.1"]
    assert {"priced_pg", "softmax_gate", "knn", "oracle"} <= {row["method"] for row in results["rows"]}
    recommendation = results["recommendation"]
    assert recommendation["target"] == {"max_quality_loss": 0.02, "satisfied": True}
    assert recommendation["cost"]["unit"] == "usd"
    assert "US$" in recommendation["sentence"]
    assert "per 1,000 queries" in recommendation["sentence"]
    assert "<html" in (folder / "report.html").read_text()
    assert (recommendation["expert"] is None) == (folder / "router").exists()
    if recommendation["expert"] is None:
        assert recommendation["comparisons"][0]["cost_saved"]["share"] > 0
        check_router(folder / "router", "['What is 2 + 2?', '', 'A farmer has 3 cows.']", "route")


def check_router(folder: Path, calls: str, function: str = "__call__") -> None:
    """Check that an exported router passed its parity check and routes where only torch is imported."""
    assert json.loads((folder / "parity.json").read_text())["passed"]
    code = (
        "import sys, torch; from router_rl.routing import load; "
        f"r = load({str(folder)!r}); n = r.{function}({calls}).experts.shape[0]; "
        "assert n == 3 and 'gymnasium' not in sys.modules and 'stable_baselines3' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    check(Path(sys.argv[1]))
    print(f"{sys.argv[1]}: as it should be")
