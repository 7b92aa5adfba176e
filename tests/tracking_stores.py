"""What each tracker has stored, read back through its own library: scalars by step, by name of the run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

__all__ = ["READERS", "Stored"]

Stored = dict[str, dict[str, list[tuple[int, float]]]]
"""(step, value) of every scalar, by its name, by the name of the run."""


def tensorboard(folder: Path) -> Stored:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root = folder / "tensorboard"
    stored: Stored = {}
    for path in root.rglob("events*"):
        name = str(path.parent.relative_to(root))
        assert name not in stored, "a second file of the same trial"
        events = EventAccumulator(str(path.parent), size_guidance={"scalars": 0})
        events.Reload()
        tags = events.Tags()["scalars"]
        stored[name] = {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in tags}
    return stored


def mlflow(folder: Path) -> Stored:
    """Of all runs that are not deleted."""
    from mlflow import MlflowClient

    client = MlflowClient()
    stored: Stored = {}
    experiment = client.get_experiment_by_name("router-rl")
    for run in client.search_runs([experiment.experiment_id]):
        name = run.info.run_name
        assert name not in stored, "a trial twice"
        assert run.info.status == "FINISHED"
        history = {tag: client.get_metric_history(run.info.run_id, tag) for tag in run.data.metrics}
        stored[name] = {tag: [(each.step, each.value) for each in points] for tag, points in history.items()}
    return stored


def weights_and_biases(folder: Path) -> Stored:
    """Of the last file of each id: `wandb sync` replaces earlier ones by it."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # waits until the files are complete

    stored: Stored = {}
    # Of runs that start within one second, the folders of later ones end in -1, -2, ...
    files = [next(path.glob("run-*.wandb")) for path in sorted((folder / "wandb").glob("offline-run-*"))]
    latest = {path.name: path for path in files}
    for path in latest.values():
        name, values = "", defaultdict[str, list[tuple[int, float]]](list)
        for data in _records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            name = record.run.display_name or name
            items = {(each.key or "/".join(each.nested_key)): each.value_json for each in record.history.item}
            for key, text in items.items():
                value = json.loads(text)
                if not key.startswith("_") and isinstance(value, int | float):
                    values[key].append((record.history.step.num, value))
            for each in record.summary.update:
                key, value = each.key or "/".join(each.nested_key), json.loads(each.value_json)
                if key.startswith(("test/", "final/")):
                    values[key].append((0, value))
        assert name not in stored, "a trial twice"
        stored[name] = dict(values)
    return stored


def _records(content: bytes) -> Iterator[bytes]:
    """Yield the records of a `.wandb` file.

    Source: the log format of LevelDB, https://github.com/google/leveldb/blob/main/doc/log_format.md
    """
    block, header, at = 32_768, 7, 7  # the file's own header is as long as a record's
    record = b""
    while at + header <= len(content):
        if block - at % block < header:  # the rest of a block that holds no header is padding
            at += block - at % block
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record += content[at + header : at + header + length]
        at += header + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


READERS = {"tensorboard": tensorboard, "mlflow": mlflow, "wandb": weights_and_biases}
