"""`compare --env cascade` and `train --env cascade` on a small table."""

from __future__ import annotations

import torch

import train_router
from router_rl.methods.cascade import methods
from router_rl.methods.cascade.cascade_training import CascadeHyperparameters
from router_rl.routing.policies.policy_storage import load_policy
from router_rl.studies.env_compare import compare_env


def test_a_small_comparison(made, tmp_path):
    made.write(tmp_path / "made.parquet")
    results = compare_env(
        "cascade",
        ["thresholds", "lookahead", "automix"],
        table=str(tmp_path / "made.parquet"),
        options={"compute_weights": [0.1]},
        seeds=1,
        out=tmp_path / "out",
    )
    summary = {row["method"]: row for row in results["summary"]}
    assert set(summary) == {"thresholds", "lookahead", "automix", "best_single", "random", "oracle"}
    best = summary["oracle"]["utility_mean"]
    assert all(row["utility_mean"] <= best for row in summary.values())
    assert summary["thresholds"]["utility_mean"] > summary["random"]["utility_mean"]
    assert 1.0 <= summary["thresholds"]["asked_mean"] <= 3.0
    assert summary["best_single"]["asked_mean"] == 1.0
    assert "compute_p95_mean" in summary["automix"]
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_train_from_the_command_line(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(methods, "_TRIES", (CascadeHyperparameters(steps=20, members=2),))
    made.write(tmp_path / "made.parquet")
    arguments = ["train", "--env", "cascade", "--table", str(tmp_path / "made.parquet"), "--out"]
    arguments += [str(tmp_path / "run"), "--options.compute_weights", "[0.4]", "--options.limit", "1"]
    assert train_router.main([*arguments, "--method", "exact_pg"]) == 0
    assert "compute weight 0.4" in capsys.readouterr().out
    policy = load_policy(tmp_path / "run" / "policy")
    assert policy.limit == 1
    seen = policy.observe(torch.zeros(1, 2), torch.full((1, 4), float("nan")), compute_weight=0.4)
    assert int(policy.decide(seen).ask) >= 0
    assert train_router.main([*arguments[:2], "cascde", *arguments[3:]]) == 2
    assert train_router.main([*arguments, "--options.limits", "2"]) == 2
