"""`train`: one router."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from experts import InputError, open_table

from ..problems.logged_feedback import LogConfig
from ..problems.objective import Objective
from ..problems.prompt_features import FeatureConfig, with_features
from ..problems.routing.problem import ScorerConfig
from ..problems.selection_rules import selection
from ..reports.terminal import progress_of
from .values import device_named

__all__ = ["train"]

err = Console(stderr=True)


def train(
    *,
    table: str | None = None,
    out: Path,
    env: str | None = None,
    options: dict[str, Any] | None = None,
    method: str | None = None,
    select: str = "hard",
    k: int = 2,
    tree: dict[str, Any] | None = None,
    objective: Objective = Objective(),  # noqa: B008 (frozen, and its fields become flags)
    scorer: ScorerConfig = ScorerConfig(),  # noqa: B008
    settings: dict[str, Any] | None = None,
    observe_load: bool | None = None,
    feedback: str = "full",
    log: LogConfig = LogConfig(),  # noqa: B008
    features: FeatureConfig = FeatureConfig(),  # noqa: B008
    tries: int = 1,
    seed: int = 0,
    device: str = "cpu",
    compile: bool = False,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Train one router; a run that was stopped goes on where it was when the same command is given.

    Args:
        table: a Parquet file or an embedded source's name.
        out: the run folder.
        env: an environment whose decisions have consequences, see `list`; null: one choice a query. With it
            only table, out, options, method, tries and seed are read.
        options: of that environment, such as --options.limit 2.
        method: see `list`; null: ppo, or the environment's first.
        select: selection rule, see `list`.
        k: experts a decision runs (topk) or may run (adaptive_k).
        tree: for hierarchical, such as {"general": ["a"], "coding": ["b", "c"]}; null: grown from the data.
        objective: what to maximise.
        scorer: the shape of the router's network.
        settings: values for some of the method's settings, such as --settings.learning_rate 0.01.
        observe_load: whether the router sees the window's load; null: where it is charged for.
        feedback: full, or bandit: of each training and validation query one expert's outcome is known.
        log: how that expert was chosen; read under bandit feedback.
        features: made of the prompts where the table has no features.
        tries: settings tried, chosen on validation.
        seed: of everything random.
        device: such as cpu or cuda.
        compile: run the router's network through torch.compile while it trains; pays for wide networks.
        allow_leakage: accept a prompt that stands in two splits; every output then says so.
    """
    from ..methods.registry import METHODS
    from ..problems.routing.problem import Task
    from ..studies.collapse import Reference, live
    from ..studies.runs import train_run

    if env is not None:
        from ..studies.env_compare import train_env

        with progress_of("training", err) as progress:
            return train_env(
                env, method, table=table, options=options, seed=seed, tries=tries, out=out, progress=progress
            )
    if table is None:
        raise InputError("table", None, "there is nothing to learn from", "give --table, or --env")
    method = "ppo" if method is None else method
    rows, text, readouts = with_features(
        open_table(table, allow_leakage=allow_leakage), features, feedback=feedback
    )
    rule = selection(select, rows, k=k, tree=tree, feedback=feedback)
    task = Task.of(
        rows,
        objective,
        rule,
        scorer=scorer,
        observe_load=observe_load,
        device=device_named(device),
        feedback=feedback,
        log=log,
        readouts=readouts,
        compiled=compile,
    )
    reference = Reference.of(task)
    # Searched within a budget, or for every weight, what is measured meanwhile is not what will be kept.
    comparable = objective.budget is None and (method not in METHODS or METHODS[method].over is None)
    with progress_of("training", err) as progress:

        def watch(snapshot: Any) -> None:
            utility = snapshot.validation.means()["utility"]
            said = f"validation utility {utility:.4f}, best {snapshot.best:.4f}"
            trouble = live(snapshot, reference) if comparable else ""
            progress(snapshot.step, snapshot.total, f"{said}; {trouble}" if trouble else said)

        run = train_run(
            rows, task, method, out, seed=seed, tries=tries, settings=settings, watch=watch, text=text
        )
    return {"run": str(out), **run.facts}
