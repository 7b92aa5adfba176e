"""A finished trial is read as it was written; a damaged or edited one is one line, and nothing is written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_methods
from json_edits import places, replaced
from safetensors.numpy import load, save
from toy_methods import ToyHyperparameters, disagreeing_table

from experts import InputError
from router_rl import Objective, RoutingProblem
from router_rl.problems.problem import Case
from router_rl.studies import trial_parcel
from router_rl.studies.stored_trials import StoredTrial
from router_rl.studies.trial import Trial, run_trial, trial_folder
from router_rl.studies.trial_files import read_trial_files, write_trial_files
from router_rl.studies.trial_fit import case_as_json

LABELS = ("a", "b")


def facts() -> dict[str, Any]:
    """What a trial of two cases writes."""
    result = {
        "validation": {"utility": 0.5},
        "validation_shares": [0.25, 0.75],
        "train_utility": None,
        "facts": {"load": {"cv": 0.1}},
    }
    return {
        "schema_version": 7,
        "results": [{"label": label, **result} for label in LABELS],
        "curve": [[1, 0.5, 0.1, 0.9]],
        "seconds": 1.5,
        "messages": ["done"],
        "facts": {},
        "figures": [],
    }


def arrays() -> dict[str, np.ndarray]:
    own = {"utility": np.ones(3), "parts/quality": np.ones(3), "share": np.ones((3, 2), dtype=np.float32)}
    return {f"{index}/{name}": array for index in range(2) for name, array in own.items()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_trial_files(tmp_path, facts(), arrays())
    return tmp_path


def refused(home: Path) -> str:
    with pytest.raises(
        InputError, match=r"trial=.*cannot be (used|read).*; delete .* and run the same command"
    ) as caught:
        read_trial_files(home, LABELS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_trial_is_read_as_it_was_written(home: Path) -> None:
    kept, measured = read_trial_files(home, LABELS)
    assert {name: value for name, value in kept.items() if name != "measured"} == facts()
    assert {name: array.tolist() for name, array in measured.items()} == {
        name: array.tolist() for name, array in arrays().items()
    }


def test_every_edit_of_a_trial_is_noticed(home: Path) -> None:
    path = home / "trial.json"
    content = json.loads(path.read_text())
    for at in places(content):
        if at == ("checksum",):
            continue
        for value in (None, 7.5, ...):
            edited = replaced(content, at, value)
            path.write_text(json.dumps(edited))
            assert edited == content or "changed after it was written" in refused(home)
    for text in ("", "{", "[]", "null", "[" * 10_000):
        path.write_text(text)
        refused(home)


def test_fields_of_a_trial_without_a_checksum_are_checked(home: Path) -> None:
    """Trials of earlier releases have none."""
    path = home / "trial.json"
    content = json.loads(path.read_text())
    del content["checksum"], content["measured"]
    path.write_text(json.dumps(content))
    assert read_trial_files(home, LABELS)[0] == content
    for name in ("results", "curve", "seconds", "messages", "figures"):
        for value in (None, "x", {}, [7], ...):
            path.write_text(json.dumps(replaced(content, (name,), value)))
            refused(home)
    for name in ("label", "validation", "validation_shares", "train_utility", "facts"):
        path.write_text(json.dumps(replaced(content, ("results", 1, name), "x")))
        refused(home)


def test_damaged_measurements_are_refused(home: Path) -> None:
    path = home / "measured.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "was changed after trial.json was written" in refused(home)
    trial = json.loads((home / "trial.json").read_text())
    del trial["checksum"], trial["measured"]
    (home / "trial.json").write_text(json.dumps(trial))
    measured = load(content)
    for name, array in (
        ("0/utility", np.full(3, np.nan)),
        ("1/utility", np.ones((3, 2))),
        ("1/share", np.ones((2, 2))),
        ("9/share", np.ones((3, 2))),
    ):
        path.write_bytes(save({**measured, name: array}))
        refused(home)
    path.write_bytes(save({name: array for name, array in measured.items() if name != "1/utility"}))
    refused(home)
    for damaged in (content[:-3], b"", b"\xff" * 100):
        path.write_bytes(damaged)
        refused(home)
    path.unlink()
    refused(home)
    if os.name != "nt":
        os.mkfifo(path)
        assert "it is not a file" in refused(home)


@pytest.fixture
def toys() -> Iterator[None]:
    with toy_methods.installed():
        yield


@pytest.mark.usefixtures("toys")
def test_a_damaged_trial_is_not_fitted_again(tmp_path: Path) -> None:
    problem = RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))
    trial = Trial(method="toy_seeded", hyperparameters=ToyHyperparameters(), case=None, seed=0)
    first = run_trial(trial, problem, tmp_path)
    path = first.folder / "trial.json"
    path.write_text(path.read_text().replace('"seconds":', '"second":'))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    with pytest.raises(InputError, match="trial="):
        run_trial(trial, problem, tmp_path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_measures_of_a_stored_trial_have_one_value_a_row(home: Path) -> None:
    trial = StoredTrial(folder=home, digest="d", method="knn", seed=0, hyperparameters={}, cases=LABELS)
    assert set(trial.measured("b")) == {"utility", "quality"}  # not the shares [T, N]
    assert trial.is_of("knn", "a", None)
    assert trial.is_of("knn", "a", "d")
    assert not trial.is_of("knn", "a", "e")
    assert not trial.is_of("knn", "c", None)
    assert not trial.is_of("best_single", "a", None)
    assert not trial.is_of("ridge", "a", None)


def test_what_a_case_depends_on_has_the_set_fields_of_its_objective() -> None:
    problem = RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))
    kept = case_as_json(problem.case)
    assert kept["values"] == {"compute_weight": 0.1, "load_weight": 0.0}
    assert kept["objective"]["compute_weight"] == 0.1
    assert None not in kept["objective"].values()
    assert case_as_json(Case(label="all", values={}))["objective"] is None


def test_the_file_that_marks_the_end_of_a_parcel_is_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    @contextmanager
    def recorded(path: Path) -> Iterator[Path]:
        written.append(path.name)
        yield tmp_path / "temporary"

    monkeypatch.setattr(trial_parcel, "replacing", recorded)
    monkeypatch.setattr(trial_parcel, "read_trial", lambda *_, **__: None)
    problem = RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))
    with toy_methods.installed():
        trial = Trial(
            method="toy_gate_one", hyperparameters=ToyHyperparameters(), case=problem.case, seed=0, number=0
        )
        name = trial_folder(trial, problem, tmp_path, "d").name
        files = dict.fromkeys(("zeta.bin", trial_parcel.TRIAL_FILE, "a.bin"), b"")
        parcel = trial_parcel.TrialParcel(name=name, files=files, calls=[])
        trial_parcel.store_parcel(parcel, trial, problem, tmp_path, digest="d")
    assert written == ["a.bin", "zeta.bin", "trial.json"]
