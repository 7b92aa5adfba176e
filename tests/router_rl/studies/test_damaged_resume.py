"""A comparison that resumes on damaged trials says which, in one line, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_methods
from toy_methods import disagreeing_table

from experts import InputError
from router_rl import Objective, RoutingProblem, compare
from router_rl.routing import RouterError


@pytest.fixture(scope="module")
def problem() -> RoutingProblem:
    return RoutingProblem(disagreeing_table(), Objective(compute_weight=0.1))


@pytest.fixture(scope="module")
def study(problem: RoutingProblem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make a comparison; the strong simple rules beside its method make no difference."""
    with toy_methods.installed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoutingProblem, "always", ("oracle", "random", "best_single"))
        out = tmp_path_factory.mktemp("studies") / "study"
        compare(problem, ["toy_seeded"], seeds=1, n_trials=1, out=out)
        yield out


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", ["trial.json", "measured.safetensors", "router/router.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 9000, b"\xff\x00", b'{"inputs": [3]}'])
def test_a_damaged_file_of_a_trial_is_named(
    name: str, content: bytes, study: Path, problem: RoutingProblem
) -> None:
    (path,) = study.glob(f"trials/toy_seeded-*/{name}")
    whole = path.read_bytes()
    path.write_bytes(content)
    before = {file: file.read_bytes() for file in study.rglob("*") if file.is_file()}
    problem_of_file, result = "", None
    try:
        result = compare(problem, ["toy_seeded"], seeds=1, n_trials=1, out=study)
    except (InputError, RouterError) as error:
        problem_of_file = str(error)
    finally:
        after = {file: file.read_bytes() for file in study.rglob("*") if file.is_file()}
        path.write_bytes(whole)
    if name == "router/router.json" and content == b"{}":
        assert result is not None  # a comparison reads no more of a saved router than what its inputs are
        return
    assert path.name in problem_of_file
    assert "run the same command again" in problem_of_file
    assert "\n" not in problem_of_file
    assert after == before
    assert json.loads((study / "results.json").read_text())["schema_version"] == 2
