"""MLflow: one run for the training run or comparison, and a nested run for each of its trials.

The store and the experiment are those of MLflow's own environment variables, such as MLFLOW_TRACKING_URI and
MLFLOW_EXPERIMENT_NAME. MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true logs system metrics.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow import MlflowClient

from experts import InputError
from experts.io.cache import cache_folder

from .run_identity import folder_id, run_id
from .tracker import TrackedRun

__all__ = ["MLflowTracker"]

_EXPERIMENT = "router-rl"
_KEY = "router_rl.id"
_NOT_IN_NAMES = re.compile(r"[^\w./: -]", re.ASCII)
_LONGEST = 250  # characters of a name
_LONGEST_VALUE = 500  # characters of a parameter that every store takes


class MLflowTracker:
    """Writes through MLflow's fluent interface, so that its own switches work."""

    def __init__(self) -> None:
        self._id: str | None = None

    def start(self, run: TrackedRun) -> None:
        """Begin a run; the one of the same folder and key is continued (of the whole) or deleted."""
        # Processes that create one SQLite store at the same time collide.
        with FileLock(cache_folder("locks") / "mlflow.lock"), _reported():
            client = MlflowClient()
            experiment = _experiment(client)
            before = _runs(client, experiment, run_id(run))
            parent = None
            if run.job == "trial":
                for each in before:
                    client.delete_run(each)
                parent = next(iter(_runs(client, experiment, folder_id(run.folder))), None)
            options: dict[str, Any] = {"run_name": run.name, "parent_run_id": parent}
            if run.job != "trial" and before:
                options = {"run_id": before[0]}
            tags = {_KEY: run_id(run), "job": run.job, **run.tags}
            active = mlflow.start_run(experiment_id=experiment, nested=True, tags=tags, **options)
            self._id = active.info.run_id
            if "run_id" not in options:
                parameters = {_name(name): str(value)[:_LONGEST_VALUE] for name, value in run.config.items()}
                mlflow.log_params(parameters, run_id=self._id)

    def log(
        self, step: int, scalars: Mapping[str, float], counts: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """Log scalars; MLflow has no histograms."""
        with _reported():
            named = {_name(name): float(value) for name, value in scalars.items()}
            mlflow.log_metrics(named, step=step, run_id=self._id)

    def finish(self, summary: Mapping[str, float], artefacts: Sequence[Path]) -> None:
        """Log the results that are not there yet, and the artefacts."""
        assert self._id is not None
        with _reported():
            known: Mapping[str, float] = MlflowClient().get_run(self._id).data.metrics
            named = {_name(name): float(value) for name, value in summary.items()}
            changed = {name: value for name, value in named.items() if known.get(name) != value}
            if changed:
                mlflow.log_metrics(changed, run_id=self._id)
            for path in artefacts:
                log = mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact
                log(str(path), path.name if path.is_dir() else None, run_id=self._id)
            self._end("FINISHED")

    def stop(self) -> None:
        """End the run as killed."""
        with _reported():
            self._end("KILLED")

    def _end(self, status: str) -> None:
        active = mlflow.active_run()
        if active is not None and active.info.run_id == self._id:
            mlflow.end_run(status)
        self._id = None


def _experiment(client: MlflowClient) -> str:
    """Return the id of the experiment that MLflow's variables name; a new one is made if it is not there."""
    given = os.environ.get("MLFLOW_EXPERIMENT_ID")
    if given:
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    known = client.get_experiment_by_name(name)
    return client.create_experiment(name) if known is None else known.experiment_id


def _runs(client: MlflowClient, experiment: str, identity: str) -> list[str]:
    """Return the ids of the runs with an identity, newest first."""
    stored = client.search_runs([experiment], f"tags.`{_KEY}` = '{identity}'")
    return [each.info.run_id for each in stored]


def _name(name: str) -> str:
    """Return a name with the characters that MLflow takes."""
    return _NOT_IN_NAMES.sub("_", name)[:_LONGEST]


@contextmanager
def _reported() -> Generator[None, None, None]:
    """Turn an error of MLflow, of its database or of the connection to its server into one line."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        fix = "check MLFLOW_TRACKING_URI, or give another --track"
        raise InputError("track", "mlflow", f"failed ({reason})", fix) from error
