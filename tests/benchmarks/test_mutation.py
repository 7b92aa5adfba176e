"""The mutation run: its seeded sample, what is viable, the nearest tests, the table, and that it resumes."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from benchmark_scripts import benchmark

ROOT = Path(__file__).resolve().parents[2]


mutation: Any = benchmark("mutation")
mutation_sample: Any = benchmark("mutation_sample")
mutation_tests: Any = benchmark("mutation_tests")

SOURCE = '''"""A module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    left: int | None
    right: int = 3


def total(pairs: list[Pair] | None) -> int | None:
    """Sum a list."""
    return sum(a + b for a, b in zip([1, 2], [3, 4], strict=True)) if pairs else None
'''


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with three files, and tests that reach them in different ways."""
    files = {
        "router_rl/__init__.py": "",
        "router_rl/a/__init__.py": "from .deep import Deep\n",
        "router_rl/a/deep.py": SOURCE + "\n\nclass Deep: ...\n",
        "router_rl/a/shown.py": '"""A module.\n\n>>> 1 + 1\n2\n"""\n',
        "router_rl/a/user.py": "from .deep import total\nfrom ..b.lonely import thing\n",
        "router_rl/b/__init__.py": "",
        "router_rl/b/lonely.py": "thing = 1 + 2\n",
        "router_rl/b/registry.py": "NAMES = {'x': 'router_rl.a.user:total'}\n",
        "tests/router_rl/a/test_deep.py": "from router_rl.a.deep import total\n",
        "tests/router_rl/a/test_another.py": "def test():\n    from router_rl.a import Deep\n",
        "tests/router_rl/b/test_far.py": "from router_rl.a.deep import Pair\n",
        "tests/router_rl/b/test_registry.py": "import router_rl.b.registry\n",
        "tests/router_rl/a/test_user.py": "from router_rl.a import user\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_sample_is_seeded_and_has_one_mutant_at_a_place(tree: Path) -> None:
    one, same, other = (mutation_sample.mutants_in(tree, "router_rl/a", seed) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    places = [(mutant.module_path, mutant.start_pos) for mutant in one]
    assert len(set(places)) == len(places)
    assert {path.as_posix() for path, _ in places} == {"router_rl/a/deep.py"}
    names = {mutation_sample.identifier(mutant) for mutant in one}
    assert len(names) == len(one)


def test_every_mutant_can_be_planted(tree: Path) -> None:
    source = (tree / "router_rl/a/deep.py").read_text()
    for mutant in mutation_sample.mutants_in(tree, "router_rl/a", 0):
        changed = mutation_sample.mutated(source, mutant)
        assert changed is not None
        assert changed != source


@pytest.mark.parametrize(
    ("before", "after", "viable"),
    [
        ("a + b", "a - b", True),
        ("right: int = 3", "right: int = 4", True),
        ("[1, 2]", "[1, 3]", True),
        ("@dataclass(frozen=True)\n", "\n", True),
        ("if pairs else", "if not pairs else", True),
        ("frozen=True", "frozen=False", False),
        ("strict=True", "strict=False", False),
        ("left: int | None", "left: int & None", False),
        ("list[Pair] | None", "list[Pair] ^ None", False),
        ("-> int | None", "-> int + None", False),
        ("a + b", "a + * b", False),
    ],
)
def test_what_is_viable(before: str, after: str, viable: bool) -> None:
    assert SOURCE.count(before) == 1
    assert mutation_sample.changes_what_runs(SOURCE, SOURCE.replace(before, after)) is viable


def test_the_mirror_comes_first_then_importers_by_distance(tree: Path) -> None:
    nearest = mutation_tests.NearestTests(tree)
    assert nearest.of("router_rl/a/deep.py") == [
        "tests/router_rl/a/test_deep.py",
        "tests/router_rl/a/test_another.py",  # through the package
        "tests/router_rl/b/test_far.py",
    ]
    assert mutation_tests.NearestTests(tree, limit=1).of("router_rl/a/deep.py") == [
        "tests/router_rl/a/test_deep.py"
    ]


def test_doctests_come_first(tree: Path) -> None:
    assert mutation_tests.NearestTests(tree).of("router_rl/a/shown.py") == ["router_rl/a/shown.py"]


def test_importers_of_importers_are_asked_where_there_are_too_few(tree: Path) -> None:
    nearest = mutation_tests.NearestTests(tree)
    assert nearest.of("router_rl/b/lonely.py") == [
        "tests/router_rl/a/test_user.py",
        "tests/router_rl/b/test_registry.py",  # the registry names the file in a string
    ]


@pytest.mark.slow
def test_every_file_of_every_room_has_tests() -> None:
    nearest = mutation_tests.NearestTests(ROOT)
    files = [
        path.relative_to(ROOT).as_posix() for room in mutation.ROOMS for path in (ROOT / room).rglob("*.py")
    ]
    assert [name for name in files if not name.endswith("__init__.py") and not nearest.of(name)] == []


def test_the_table_counts_and_lists_survivors() -> None:
    verdicts = [
        mutation.Verdict(place="a.py:1", change="`x` became `y`", killed=True),
        mutation.Verdict(place="a.py:2", change="`x` became `z`", killed=True, slow=True),
        mutation.Verdict(place="a.py:3", change="`1` became `2`", killed=False),
    ]
    scores = [
        mutation.Score(room="one", verdicts=verdicts),
        mutation.Score(room="two", verdicts=verdicts[:1]),
    ]
    text = mutation.report(scores, "0123456789", 3, 7)
    assert "Commit 0123456, seed 7, 3 viable mutants in each folder." in text
    assert "| one | 3 | 2 | 1 | 1 | 66.7 (20.8 to 93.9) |" in text
    assert "| all | 4 | 3 | 1 | 1 | 75.0 (30.1 to 95.4) |" in text
    assert text.endswith("Survivors:\n\n- `a.py:3`: `1` became `2`")


@pytest.mark.parametrize(
    ("outcome", "output", "killed", "slow"),
    [("killed", "1 failed", True, False), ("killed", "timeout", True, True), ("survived", "", False, False)],
)
def test_a_verdict_names_the_change_and_whether_time_ran_out(
    tree: Path, outcome: str, output: str, killed: bool, slow: bool
) -> None:
    mutant = mutation_sample.mutants_in(tree, "router_rl/b", 0)[0]
    diff = "--- \n+++ \n@@ -1 +1 @@\n-thing = 1 + 2\n+thing = 1 - 2"
    result = mutation.WorkResult(worker_outcome="normal", output=output, test_outcome=outcome, diff=diff)
    change = "`thing = 1 + 2` became `thing = 1 - 2`"
    expected = mutation.Verdict(place="router_rl/b/lonely.py:1", change=change, killed=killed, slow=slow)
    assert mutation._verdict(mutant, result) == expected


class _Tests:
    """Tests of `lonely.py` that notice another operator but no other number; its import needs `<`."""

    def __init__(self, source: str, crash_at: int = 0) -> None:
        self.source, self.crash_at = source, crash_at
        self.planted: list[str] = []

    def __call__(self, command: str, limit: float | None) -> tuple[Any, str]:
        words = shlex.split(command)
        text = (Path(words[2]) / "router_rl/b/lonely.py").read_text()
        killed, survived = mutation.TestOutcome.KILLED, mutation.TestOutcome.SURVIVED
        if text == self.source:  # which packages are imported, and how long tests take without a mutant
            return survived, "1 passed"
        if "-c" in words:
            return (survived if " < " in text else killed), ""
        assert limit is not None
        self.planted.append(text)
        if len(self.planted) == self.crash_at:
            raise RuntimeError("the machine goes down")
        if " < " not in text:
            return killed, "1 error in 0.1s"
        return (survived, "1 passed") if "+" in text else (killed, "1 failed in 0.1s")


def test_a_run_continues_where_it_was_cut_off(
    tree: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant that was cut off runs again, the others do not; the copy is as it was."""
    out, source = tmp_path_factory.mktemp("mutation"), "thing = 1 + 2\nother = 3 < 4\n"
    (tree / "router_rl/b/lonely.py").write_text(source)
    for name in ("pristine", "tree0"):
        shutil.copytree(tree, out / name)

    def score(tests: _Tests, sample: int) -> Any:
        monkeypatch.setattr(mutation, "run_tests", tests)
        with mutation.use_db(str(out / "session.sqlite"), mutation.WorkDB.Mode.create) as results:
            return mutation._Session(out, results, 1, 4.0).score("router_rl/b", sample, 0)

    cut = _Tests(source, crash_at=3)
    with pytest.raises(RuntimeError, match="goes down"):
        score(cut, 99)
    rest = _Tests(source)
    whole = score(rest, 99)
    assert set(rest.planted) & set(cut.planted) == {cut.planted[2]}  # the one that was cut off
    again = _Tests(source)
    assert score(again, 99) == whole
    assert again.planted == []
    assert (out / "tree0/router_rl/b/lonely.py").read_text() == source
    # Six places: four numbers, which survive; `+`, which is killed; `<`, without which the import fails.
    assert [one.killed for one in whole.verdicts].count(True) == 1
    assert len(whole.verdicts) == 5
    (killed,) = (one.change for one in whole.verdicts if one.killed)
    assert killed.startswith("`thing = 1 + 2` became `thing = 1 ")
    smaller = score(_Tests(source), 2)
    assert list(smaller.verdicts) == list(whole.verdicts)[:2]


def test_a_copy_that_imports_another_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree0").mkdir()
    (tmp_path / "pristine").mkdir()
    with (
        mutation.use_db(str(tmp_path / "session.sqlite"), mutation.WorkDB.Mode.create) as results,
        pytest.raises(SystemExit, match="does not import its own router_rl"),
    ):
        mutation._Session(tmp_path, results, 1, 4.0)
