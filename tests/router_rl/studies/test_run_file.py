"""`run.json` is read field by field: an edited or damaged one is one line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from json_edits import places, replaced

from experts import InputError
from experts.io.json_file import sealed
from router_rl.studies.run_file import read_run_file

RUNS = Path(__file__).parents[2] / "fixtures" / "version1" / "runs"


def facts() -> dict[str, Any]:
    """A run of this version."""
    return {
        "schema_version": 2,
        "problem": {
            "name": "routing",
            "source": "t",
            "experts": ["a", "b"],
            "options": {"k": 2},
            "notes": [],
        },
        "digest": "x",
        "method": "ridge",
        "family": "baseline",
        "hyperparameters": {"penalty": 0.1},
        "n_trials": 1,
        "seed": 0,
        "objective": {
            "compute_weight": 0.1,
            "load_weight": 0.0,
            "window": 256,
            "budget": None,
            "max_cost": None,
        },
        "compute_unit": 2.5,
        "experts": ["a", "b"],
        "inputs": ["features"],
        "table": "t",
        "cases": [{"label": "one", "values": {"compute_weight": 0.1}, "validation": {}, "test": {}}],
        "validation": {"utility": 0.5},
        "test": {"utility": 0.5, "shares": None},
        "collapse": None,
        "fit_seconds": 0.5,
        "router": "router",
        "notes": [],
        "versions": {"torch": "2"},
    }


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_run_file(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_run_file(write(tmp_path / "run.json", facts())) == facts()
    assert read_run_file(write(tmp_path / "run.json", sealed(facts()))) == facts()


@pytest.mark.parametrize("path", sorted(RUNS.glob("*/run.json")), ids=lambda path: path.parent.name)
def test_runs_of_version_1_are_converted(path: Path) -> None:
    content = read_run_file(path)
    name = path.parent.name
    assert content["problem"] == {"name": name.removeprefix("env_") if "env_" in name else "routing"}
    assert not {"tries", "settings", "env"} & set(content)
    assert "limit" not in (content.get("objective") or {})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema_version": 99}, "has schema version 99, this release reads 1, 2"),
        ({"schema_version": "2"}, "has schema version 2"),
        ({"method": None}, "method is None, not a text"),
        ({"method": ...}, "method is missing"),
        ({"compute_unit": 0}, "compute_unit is 0, not above 0"),
        ({"compute_unit": "1"}, "compute_unit is '1', not a number or null"),
        ({"seed": -1}, "seed is -1, below 0"),
        ({"seed": 1.5}, "seed is 1.5, not a whole number"),
        ({"objective": {"compute_weight": "x"}}, r"objective\.compute_weight is 'x', not a number"),
        ({"objective": {"weight": 1.0}}, r"objective\.weight is unknown"),
        ({"objective": {"compute_weight": -1.0}}, "compute_weight"),
        ({"cases": [{"label": "one"}]}, r"cases\[0\]\.values is missing"),
        ({"problem": {}}, r"problem\.name is missing"),
        ({"problem": {"name": "nope"}}, r"problem\.name is 'nope', not one of caching, cascade"),
        ({"notes": [1]}, r"notes\[0\] is 1, not a text"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    content = {name: value for name, value in (facts() | changes).items() if value is not ...}
    message = refused(write(tmp_path / "run.json", content))
    assert message.startswith("run=")
    with pytest.raises(InputError, match=problem):
        read_run_file(tmp_path / "run.json")


def test_every_edit_of_a_sealed_run_is_noticed(tmp_path: Path) -> None:
    content = sealed(facts())
    edits = [(at, value) for at in places(content) for value in (None, 3, "x")]
    for at, value in random.Random(0).sample(edits, 60):
        edited = replaced(content, at, value)
        if edited != content:
            assert "changed after it was written" in refused(write(tmp_path / "run.json", edited))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 10_000, '{"seed": NaN}', '{"a": 1, "a": 1}'])
def test_other_text_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    refused(tmp_path / "run.json")
