"""Run folders: written by `train`, read by `evaluate` and `export`, the same for every problem.

run.json          problem, method, hyperparameters and results; written last
config.yaml       resolved options
router/           trained router or policy, readable by `router_rl.routing.load`
tensorboard/      TensorBoard logs
trials/           finished trials, and the checkpoint of the current one
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experts import InputError
from experts.io.atomic import write_json
from experts.io.json_file import read_json, sealed
from experts.io.owned_folder import check_replaceable, claim_folder, replacing_folder

from ..methods.budget import amortizes, check_budget
from ..methods.fit import learnable
from ..methods.training_loop import Callback
from ..problems.objective import Objective
from ..problems.options import as_json
from ..problems.problem import Problem
from ..routing import Router, load
from .collapse import Facts, Reference, diagnose
from .inputs import router_inputs
from .run_file import RUN_SCHEMA, read_run_file
from .tracking.run_identity import TRACKING_FILE
from .tracking.tracked import Tracked
from .tracking.tracked_values import cost_tag_of, summary_of
from .trial import Trial, TrialResult, run_trial

__all__ = ["SCHEMA_VERSION", "TrainedRun", "read_run", "train_run"]

SCHEMA_VERSION = RUN_SCHEMA
_WRITTEN = ("run.json", "identity.json", "config.yaml", "router", "tensorboard", TRACKING_FILE, "trials")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedRun:
    """A finished run.

    Attributes:
        folder: the run folder.
        facts: content of `run.json`.
        policy: trained router or policy; None if it cannot be saved.
    """

    folder: Path
    facts: dict[str, Any]
    policy: Any

    @property
    def router(self) -> Router:
        """The trained router.

        Raises:
            InputError: the run's policy is not a router.
        """
        if not isinstance(self.policy, Router):
            problem = self.facts.get("problem", {}).get("name", "this problem")
            raise InputError(
                "run", str(self.folder), f"has a policy of {problem}, not a router", "use a routing run"
            )
        return self.policy

    @property
    def objective(self) -> Objective:
        """The objective of the run.

        Raises:
            InputError: the run's problem has no objective per case.
        """
        objective = self.facts.get("objective")
        if objective is None:
            name = self.facts["problem"]["name"]
            raise InputError("run", str(self.folder), f"is a run of {name}", "use a routing run")
        return Objective(**objective)

    @property
    def scale(self) -> float:
        """Unit of compute, in the table's cost unit."""
        return float(self.facts["compute_unit"])


def train_run(
    problem: Problem,
    method: str,
    out: Path | str | Tracked,
    *,
    seed: int = 0,
    n_trials: int = 1,
    hyperparameters: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> TrainedRun:
    """Train one method and write a run folder; calling it again resumes an interrupted run.

    A problem with several cases is trained in its middle case, unless one fit serves all cases.

    Args:
        problem: the problem.
        method: name of the method, see `train_router.py list`.
        out: the run folder; `Tracked(folder, "mlflow")` logs to other trackers than TensorBoard.
        seed: random seed.
        n_trials: number of hyperparameter settings to try; the one with the best validation utility is kept.
        hyperparameters: values of some of the method's hyperparameters; disables the search.
        callback: is called with every snapshot of the fits.

    Raises:
        InputError: the method cannot be fitted, the folder cannot be written or belongs to another run, or
            it holds files of the same names that no run wrote.
    """
    learner = learnable(method, problem)
    if problem.cases[0].objective is not None:
        check_budget([learner], problem.cases[0].objective)
    if hyperparameters is None:
        candidates = learner.candidates(n_trials)
    else:
        candidates = [learner.configure(hyperparameters)]
    case = None if amortizes(learner, problem) else problem.cases[(len(problem.cases) - 1) // 2]
    trials = [
        Trial(method=method, hyperparameters=each, case=case, seed=seed, number=number)
        for number, each in enumerate(candidates)
    ]
    tracked = Tracked.of(out)
    folder = claim_folder(tracked.folder, "run", _WRITTEN)
    check_replaceable(folder / "router")
    digest = problem.digest()
    identity = trials[0].identity(problem, digest) | {"n_trials": len(trials)}
    _check_same_run(folder, identity)
    write_json(folder / "identity.json", sealed(identity))
    with tracked.whole("run", problem, digest, method) as finish:
        results = [
            run_trial(trial, problem, folder / "trials", digest=digest, tracked=tracked, callback=callback)
            for trial in trials
        ]
        best = max(results, key=lambda result: result.validation_utility)
        policy = _policy(best.folder)  # a damaged file ends here, before anything is replaced
        facts = _facts(best, problem, digest, len(trials))
        if best.router is not None:
            with replacing_folder(folder / "router") as fresh:
                shutil.copytree(best.router, fresh, dirs_exist_ok=True)
        write_json(folder / "run.json", sealed(facts))
        summary = {
            each.case.label: {"test": each.test.means(), "validation": each.validation} for each in best.cases
        }
        written = (folder / "run.json", folder / "router")
        finish(summary_of(summary, cost_tag_of(problem)), [path for path in written if path.exists()])
    return TrainedRun(folder=folder, facts=facts, policy=policy)


def read_run(folder: Path | str) -> TrainedRun:
    """Read a finished run of this version or of version 1.

    Args:
        folder: the run folder.

    Raises:
        InputError: it is not a run folder, is not finished, or has an unknown schema version.
        RouterError: its router cannot be read.
    """
    folder = Path(folder)
    path = folder / "run.json"
    if not path.exists():
        if (folder / "identity.json").exists():
            raise InputError("run", str(folder), "is not finished", "run the same train command again")
        raise InputError("run", str(folder), "is not a run folder", "give the --out folder of `train`")
    return TrainedRun(folder=folder, facts=read_run_file(path), policy=_policy(folder))


def _policy(folder: Path) -> Any:
    """Return the saved router or policy; version 1 saved policies in `policy/`."""
    for name in ("router", "policy"):
        saved = folder / name
        if any((saved / file).exists() for file in ("router.json", "policy.json")):
            return load(saved)
    return None


def _check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    path = folder / "identity.json"
    if not path.exists():
        return
    before = read_json("out", path, dict[str, Any], fix="use another --out")
    changed = sorted(name for name in {*identity, *before} if identity.get(name) != before.get(name))
    if changed:
        raise InputError(
            "out",
            str(folder),
            f"belongs to a run with another {', '.join(changed)}",
            "use another --out, or the options of that run",
        )


def _facts(result: TrialResult, problem: Problem, digest: str, n_trials: int) -> dict[str, Any]:
    trial = result.trial
    first = result.cases[0]
    card = problem.describe()
    diagnosis = None
    method = learnable(trial.method, problem)
    if method.family in ("rl", "gate") and len(result.cases) == 1:
        facts = Facts(
            method=trial.method,
            hyperparameters=asdict(trial.hyperparameters),
            shares=first.validation_shares,
            utility=first.validation["utility"],
            train_utility=first.train_utility,
            curve=result.curve,
        )
        diagnosis = diagnose(facts, Reference.of(problem, first.case)).to_json()
    objective = first.case.objective
    shares = None if first.test.share is None else [float(share) for share in first.test.shares]
    return {
        "schema_version": SCHEMA_VERSION,
        "problem": as_json(card),
        "digest": digest,
        "test_rows": problem.test_rows(),
        "method": trial.method,
        "family": method.family,
        "hyperparameters": as_json(trial.hyperparameters),
        "n_trials": n_trials,
        "seed": trial.seed,
        "objective": None if objective is None else asdict(objective),
        "compute_unit": getattr(problem, "scale", None),
        "experts": list(card.experts),
        "inputs": router_inputs(result.router, problem),
        "table": card.source,
        "cases": [
            {
                "label": each.case.label,
                "values": dict(each.case.values),
                "validation": dict(each.validation),
                "test": each.test.means(),
            }
            for each in result.cases
        ],
        "validation": dict(first.validation),
        "test": {**first.test.means(), "shares": shares},
        "collapse": diagnosis,
        "fit_seconds": result.seconds,
        "router": None if result.router is None else "router",
        "notes": [*card.notes, *_which_case(problem, result), *result.messages],
        "versions": {
            "router-rl": version("router-rl"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _which_case(problem: Problem, result: TrialResult) -> list[str]:
    if result.trial.case is None or len(problem.cases) == 1:
        return []
    others = ", ".join(case.label for case in problem.cases if case.label != result.trial.case.label)
    return [f"trained at {result.trial.case.label} only; select {others} to train there"]
