"""Change several files of a model's folder in one transaction: all or none, even if the process is killed.

The new files are prepared in a folder inside the model's. Renaming it to `router_patch.journal` starts the
change. Then the files move to their places, and the journal is renamed and removed. A journal in a model's
folder means that a change was interrupted: `recover_patch` finishes it, or undoes it if files are missing.

During the change, `config.json` is a placeholder that no library loads, so that nothing loads a mixture of
old and new files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

from experts import InputError
from experts.io.atomic import sync_file, sync_folder
from experts.io.temporaries import remove, remove_stale, temporary_beside

from .patch_files import DESCRIPTION, seal
from .shards import names_in, replace_tensors, sha256_of

__all__ = ["JOURNAL", "Change", "is_interrupted", "recover_patch", "run_change", "write_durably"]

JOURNAL = "router_patch.journal"
_PLAN, _PLACEHOLDER, _GATES = "journal.json", "placeholder.json", "gates_before.safetensors"
_BEFORE, _AFTER, _CONFIG = "before", "after", "config.json"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a model's folder.

    Attributes:
        gates: new tensors by file and name.
        gates_before: old tensors by name.
        texts: new content of other files by name; None removes the file. `config.json` must be in it.
    """

    gates: Mapping[str, Mapping[str, Tensor]]
    gates_before: Mapping[str, Tensor]
    texts: Mapping[str, str | None]


@dataclass(frozen=True)
class _Step:
    """A file, with the SHA-256 of its old and new content; None if the file does not exist."""

    name: str
    before: str | None
    after: str | None


def is_interrupted(model: Path) -> bool:
    """Return whether a change of a model's folder was interrupted."""
    return (model / JOURNAL).is_dir()


def run_change(model: Path, change: Change) -> None:
    """Change files of a model's folder: all of them or none.

    Args:
        model: the folder; it has no journal.
        change: the change.

    Raises:
        InputError: the disk has not enough space for copies of the files, or another process patches the
            model.
    """
    journal = model / JOURNAL
    remove_stale(journal)
    _check_space(model, change.gates)
    fresh = temporary_beside(journal, "new")
    try:
        fresh.mkdir()
        with _locked(model, fresh):
            steps = _prepare(model, fresh, change)
            if journal.exists():
                raise _busy(model)
            fresh.rename(journal)
            sync_folder(model)
            try:
                _forward(model, steps)
            except OSError:
                _backward(model, steps)
                _close(model)
                raise
            _close(model)
    finally:
        remove(fresh)


def recover_patch(model: Path | str) -> str | None:
    """Finish a patch of a model's folder that was interrupted, or undo it if new files are missing.

    Args:
        model: folder of the model.

    Returns:
        a message for the user; None if no patch was interrupted.

    Raises:
        InputError: another process is patching the model, or files were changed or removed since.
    """
    model = Path(model)
    if not is_interrupted(model):
        if model.is_dir():
            remove_stale(model / JOURNAL)
        return None
    with _locked(model, model / JOURNAL):
        steps = _read_plan(model)
        finished = all(_can_finish(model, step) for step in steps)
        (_forward if finished else _backward)(model, steps)
        _close(model)
    if finished:
        return "a patch of the model was interrupted; it is finished now"
    return "a patch of the model was interrupted; it is undone now, and the model has its earlier routers"


def write_durably(path: Path, text: str) -> None:
    """Write a text file and flush it to disk."""
    path.write_text(text, encoding="utf-8")
    sync_file(path)


@contextmanager
def _locked(model: Path, folder: Path) -> Generator[None, None, None]:
    """Hold the lock of a journal; the system releases it when the process ends."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise _busy(model) from error
    try:
        yield
    finally:
        lock.release()


def _busy(model: Path) -> InputError:
    return InputError("model", str(model), "is being patched by another process", "wait for it")


def _check_space(model: Path, files: Mapping[str, Any]) -> None:
    needed = sum((model / file).stat().st_size for file in files)
    free = shutil.disk_usage(model).free
    if needed > free:
        problem = f"needs {needed / 1e9:.1f} GB for copies of its files, but {free / 1e9:.1f} GB are free"
        raise InputError("model", str(model), problem, "free space, or use --out on another disk")


def _prepare(model: Path, fresh: Path, change: Change) -> list[_Step]:
    """Write the journal's folder, flushed to disk, and return its steps in order."""
    for folder in (fresh / _BEFORE, fresh / _AFTER):
        folder.mkdir()
    steps: list[_Step] = []
    for file in sorted(change.gates):
        copy = fresh / _AFTER / file
        before = sha256_of(model / file)
        shutil.copyfile(model / file, copy)
        shutil.copymode(model / file, copy)
        copy.chmod(copy.stat().st_mode | 0o200)
        replace_tensors(copy, change.gates[file])
        shutil.copymode(model / file, copy)
        sync_file(copy)
        steps.append(_Step(file, before, sha256_of(copy)))
    for name in sorted(change.texts, key=lambda name: name == _CONFIG):  # config.json is the last
        text, old = change.texts[name], model / name
        if old.exists():
            shutil.copy(old, fresh / _BEFORE / name)
            sync_file(fresh / _BEFORE / name)
        if text is not None:
            write_durably(fresh / _AFTER / name, text)
            if old.exists():
                shutil.copymode(old, fresh / _AFTER / name)
        steps.append(_Step(name, *(_digest(path) for path in (old, fresh / _AFTER / name))))
    save_file(dict(change.gates_before), fresh / _GATES)
    sync_file(fresh / _GATES)
    command = "unfinished router patch: run train-router patch --recover --model FOLDER"
    write_durably(fresh / _PLACEHOLDER, json.dumps({"model_type": command}, indent=2) + "\n")
    plan = {"schema_version": 1, "steps": [[step.name, step.before, step.after] for step in steps]}
    write_durably(fresh / _PLAN, json.dumps(seal(plan), indent=2) + "\n")
    for folder in (fresh / _BEFORE, fresh / _AFTER, fresh):
        sync_folder(folder)
    return steps


def _read_plan(model: Path) -> list[_Step]:
    try:
        plan = json.loads((model / JOURNAL / _PLAN).read_text(encoding="utf-8"))
        assert seal(plan) == plan
        assert plan["schema_version"] == 1
        return [_Step(*step) for step in plan["steps"]]
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        AssertionError,
    ) as error:
        raise InputError(
            "model",
            str(model),
            f"a patch was interrupted, and {JOURNAL}/{_PLAN} is damaged",
            f"copy the model again; its earlier routers are in {JOURNAL}/{_GATES}",
        ) from error


def _can_finish(model: Path, step: _Step) -> bool:
    new = model / JOURNAL / _AFTER / step.name
    return step.after is None or step.after in (_digest(new), _digest(model / step.name))


def _forward(model: Path, steps: Sequence[_Step]) -> None:
    """Move the files that have not been moved to their places."""
    journal = model / JOURNAL
    _move(journal / _PLACEHOLDER, model / _CONFIG)
    sync_folder(model)
    for step in steps:
        if step.name == _CONFIG:
            sync_folder(model)  # all other files are on disk before the model can be loaded again
        if step.after is None:
            (model / step.name).unlink(missing_ok=True)
        else:
            _move(journal / _AFTER / step.name, model / step.name)
    sync_folder(model)


def _move(source: Path, target: Path) -> None:
    if source.exists():
        source.replace(target)


def _backward(model: Path, steps: Sequence[_Step]) -> None:
    """Restore the old files; config.json is the last."""
    gates: dict[str, Tensor] | None = None
    for step in steps:
        target, old = model / step.name, model / JOURNAL / _BEFORE / step.name
        if step.before is None:
            target.unlink(missing_ok=True)
        elif _digest(target) == step.before:
            continue
        elif step.name in (_CONFIG, DESCRIPTION):
            _restore(model, step, lambda copy, old=old: shutil.copyfile(old, copy))
        elif _digest(target) == step.after:
            gates = load_file(model / JOURNAL / _GATES) if gates is None else gates
            _restore(model, step, lambda copy, gates=gates, file=target: _old_gates(file, copy, gates))
        else:
            raise _unknown_file(model, step.name)


def _restore(model: Path, step: _Step, write: Callable[[Path], object]) -> None:
    copy = model / JOURNAL / f"restored-{step.name}"
    try:
        write(copy)
    except OSError as error:
        raise _unknown_file(model, step.name) from error
    sync_file(copy)
    if _digest(copy) != step.before:
        raise _unknown_file(model, step.name)
    copy.replace(model / step.name)
    sync_folder(model)


def _old_gates(file: Path, copy: Path, gates: Mapping[str, Tensor]) -> None:
    shutil.copyfile(file, copy)
    replace_tensors(copy, {name: gates[name] for name in names_in(file) if name in gates})


def _unknown_file(model: Path, name: str) -> InputError:
    problem = f"a patch was interrupted, and {name} is neither the old file nor the new one"
    return InputError("model", str(model), problem, f"copy {name} again, then run patch --recover")


def _close(model: Path) -> None:
    """Remove the journal: renaming it ends the change."""
    journal = model / JOURNAL
    old = temporary_beside(journal, "old")
    journal.rename(old)
    sync_folder(model)
    remove(old)


def _digest(path: Path) -> str | None:
    return sha256_of(path) if path.is_file() else None
