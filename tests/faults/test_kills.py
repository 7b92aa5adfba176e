"""Every command that writes, killed at its file operations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from sharded_mixtures import gates_of, interrupt, routers_like, write_mixture

from experts import InputError
from router_rl.exports.transformers import apply_patch, recover_patch, write_patch

from .kill_case import KillCase, defects, files_of


def state_of(model: Path) -> tuple[dict[str, bytes], int]:
    """The gates and the number of experts per token of a model that can be loaded."""
    return gates_of(model), json.loads((model / "config.json").read_text())["num_experts_per_tok"]


def loadable(model: Path) -> bool:
    return "unfinished" not in json.loads((model / "config.json").read_text())["model_type"]


def is_original(model: Path, original: Path) -> bool:
    nothing = KillCase(words=())
    return files_of(model, nothing) == files_of(original, nothing)


def restored(folder: Path, original: Path, model: str = "model") -> str | None:
    """Give the undo; says what is wrong if the model is not the original one afterwards."""
    try:
        apply_patch(folder / "undo", folder / model)
    except InputError as error:
        return f"the undo fails: {error}"
    return None if is_original(folder / model, original) else "the undo does not restore the original"


def patch_case(
    inputs: Path,
    words: tuple[str, ...],
    original: Path,
    undone: str | None = "model",
    points: int | None = None,
) -> KillCase:
    """A patch of `model`: no mixture of old and new gates can be loaded, and the original is never lost.

    Args:
        inputs: with `model`.
        words: the command line, whose patch is the first argument.
        original: the model with its original gates.
        undone: the folder that is restored with `undo` at the end; None where the command writes no undo.
        points: as for `KillCase`.
    """
    old = state_of(inputs / "model")
    apply_patch(inputs / words[1], inputs / "model", inputs.parent / "new")
    new = state_of(inputs.parent / "new")

    def after_kill(folder: Path) -> str | None:
        if loadable(folder / "model") and state_of(folder / "model") not in (old, new):
            return "a mixture of old and new gates can be loaded"
        if (folder / "out").exists() and state_of(folder / "out") != new:
            return "the copy is not patched"
        return None if undone is None else lost(folder, original)

    def after_rerun(folder: Path) -> str | None:
        return None if undone is None else restored(folder, original, undone)

    return KillCase(
        words=words,
        after_kill=after_kill,
        after_rerun=after_rerun,
        between=("model/config.json",),
        points=points,
    )


def lost(folder: Path, original: Path) -> str | None:
    """Restore the original in a copy of `model` and `undo`; says what is wrong if that fails."""
    saved = folder / "saved"
    for name in ("model", "undo"):
        if (folder / name).exists():
            shutil.copytree(folder / name, saved / name)
    problem = None
    try:
        recover_patch(saved / "model")
        if not is_original(saved / "model", original):
            problem = restored(saved, original)
    except InputError as error:
        problem = f"cannot be recovered: {error}"
    shutil.rmtree(saved)
    return problem


IN_PLACE = ("patch", "patch", "--model", "model")


@pytest.fixture
def inputs(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Return a folder with `model` and `patch`, of the form that a test names; `original` is beside it."""
    write_mixture(getattr(request, "param", "sharded"), tmp_path / "inputs")
    shutil.copytree(tmp_path / "inputs" / "model", tmp_path / "original")
    return tmp_path / "inputs"


def killed(case: KillCase, inputs: Path, least: int = 20) -> None:
    points, wrong = defects(case, inputs, inputs.parent / "work")
    assert points > least
    assert wrong == []


@pytest.mark.parametrize("inputs", ["sharded", "single"], indirect=True)
def test_a_patch_with_an_undo(inputs: Path) -> None:
    killed(patch_case(inputs, (*IN_PLACE, "--undo", "undo"), inputs.parent / "original"), inputs)


def test_a_patch_without_an_undo(inputs: Path) -> None:
    killed(patch_case(inputs, IN_PLACE, inputs.parent / "original", None), inputs)


def test_a_patched_copy(inputs: Path) -> None:
    words = (*IN_PLACE, "--out", "out", "--undo", "undo")
    killed(patch_case(inputs, words, inputs.parent / "original", "out"), inputs)


def test_a_second_patch_and_the_undo_of_the_first(inputs: Path) -> None:
    write_patch(routers_like(), inputs / "model", inputs / "second")
    apply_patch(inputs / "patch", inputs / "model", undo=inputs / "undo")
    words = ("patch", "second", "--model", "model", "--undo", "undo")
    killed(patch_case(inputs, words, inputs.parent / "original", points=30), inputs)


def test_an_undo_that_is_applied(inputs: Path) -> None:
    apply_patch(inputs / "patch", inputs / "model", undo=inputs / "undo")
    words = ("patch", "undo", "--model", "model")
    killed(patch_case(inputs, words, inputs.parent / "original", points=30), inputs)


@pytest.mark.parametrize("finished", [True, False])
def test_a_recovery(finished: bool, inputs: Path, tmp_path: Path) -> None:
    """The model's patch was killed in the middle; where a new file is lost, the recovery undoes it."""
    apply_patch(inputs / "patch", inputs / "model", tmp_path / "new")
    interrupt(inputs / "patch", inputs / "model")
    if not finished:
        next((inputs / "model" / "router_patch.journal" / "after").glob("*.safetensors")).unlink()
    result = tmp_path / ("new" if finished else "original")

    def after_rerun(folder: Path) -> str | None:
        return None if is_original(folder / "model", result) else "the model is not what it should be"

    words, between = ("patch", "--recover", "--model", "model"), ("model/config.json",)
    case = KillCase(words=words, after_rerun=after_rerun, between=between)
    killed(case, inputs, 15)


def test_a_handover(inputs: Path) -> None:
    killed(
        KillCase(words=("handover", "--routers", "routers", "--model", "model", "--out", "out")), inputs, 8
    )


def test_a_handover_that_replaces_a_patch(inputs: Path) -> None:
    write_patch(routers_like(), inputs / "model", inputs / "out")
    killed(
        KillCase(words=("handover", "--routers", "routers", "--model", "model", "--out", "out")), inputs, 8
    )
