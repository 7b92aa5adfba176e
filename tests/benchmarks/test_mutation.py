"""The mutation run: its seeded sample, what is viable, the nearest tests, the table, and that it resumes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coverage
import pytest
from benchmark_scripts import benchmark
from cosmic_ray.work_item import MutationSpec

ROOT = Path(__file__).resolve().parents[2]


mutation: Any = benchmark("mutation")
mutation_again: Any = benchmark("mutation_again")
mutation_sample: Any = benchmark("mutation_sample")
mutation_session: Any = benchmark("mutation_session")
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


@pytest.fixture
def recorded(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Covering tests of `deep.py`: line 16, the sum, is run by three tests."""
    out = tmp_path_factory.mktemp("recorded")
    data = coverage.CoverageData(str(out / "coverage.sqlite"))
    deep = str(tree / "router_rl/a/deep.py")
    for context, lines in {
        "": {1, 3, 5, 8, 9, 10, 11, 14},
        "tests/router_rl/b/test_far.py::test_sum|run": {16},
        "tests/router_rl/a/test_deep.py::test_slow[a b]|run": {16},
        "tests/router_rl/a/test_deep.py::test_quick|setup": {16},
        "tests/router_rl/b/test_lazy.py::test_imports|run": {1, 3, 5, 8, 9, 10, 11, 14},
    }.items():
        data.set_context(context)
        data.add_lines({deep: lines})
    data.write()
    seconds = (
        "0.50s call     tests/router_rl/b/test_far.py::test_sum",
        "9.00s call     tests/router_rl/a/test_deep.py::test_slow[a b]",
        "2.00s setup    tests/router_rl/a/test_deep.py::test_slow[a b]",
        "0.01s call     tests/router_rl/a/test_deep.py::test_quick",
        "0.02s call     tests/router_rl/b/test_lazy.py::test_imports",
        "0.10s call     tests/test_defaults.py::test_defaults",
    )
    (out / "durations.txt").write_text("\n".join(seconds))

    def covering(**limits: float) -> Any:
        found = mutation_tests.CoveringTests(out, tree, **limits)
        found.out = out
        return found

    return covering


def at(name: str, text: str) -> MutationSpec:
    """Return a mutant at the first place of a text in `SOURCE`."""
    before = SOURCE[: SOURCE.index(text)]
    line, column = before.count("\n") + 1, len(before.rpartition("\n")[2])
    return MutationSpec(Path(name), "any", 0, (line, column), (line, column + 1))


def test_tests_that_run_the_line_are_taken_nearest_first(recorded: Any) -> None:
    deep = "tests/router_rl/a/test_deep.py::"
    mutant = at("router_rl/a/deep.py", "a + b")
    everything = [f"{deep}test_quick", f"{deep}test_slow[a b]", "tests/router_rl/b/test_far.py::test_sum"]
    assert recorded().of(mutant) == everything
    assert recorded().seconds(everything) == pytest.approx(11.51)
    assert recorded(seconds=11.0).of(mutant) == everything[:2]  # 11.01 s
    assert recorded(seconds=0.0).of(mutant) == everything[:1]


def test_a_line_of_the_import_is_tested_by_all_that_run_the_module(recorded: Any) -> None:
    found = recorded().of(at("router_rl/a/deep.py", "3\n"))  # a default of a dataclass
    assert len(found) == 5
    assert "tests/router_rl/b/test_lazy.py::test_imports" in found  # not alone, though it imported the line


def test_the_defaults_test_first_what_an_import_runs(recorded: Any) -> None:
    defaults = "tests/test_defaults.py::test_defaults"
    assert recorded().of(at("router_rl/a/deep.py", "3\n"))[0] == defaults
    assert defaults not in recorded().of(at("router_rl/a/deep.py", "a + b"))


def test_a_test_that_fails_without_a_mutant_is_left_out(recorded: Any) -> None:
    out = recorded().out
    (out / "failed.txt").write_text("FAILED tests/router_rl/a/test_deep.py::test_slow[a b] - assert 1 == 2")
    deep = "tests/router_rl/a/test_deep.py::"
    found = recorded().of(at("router_rl/a/deep.py", "a + b"))
    assert found == [f"{deep}test_quick", "tests/router_rl/b/test_far.py::test_sum"]


def test_a_line_that_no_test_runs_has_none(recorded: Any, tree: Path) -> None:
    (tree / "router_rl/b/lonely.py").write_text(SOURCE)
    assert recorded().of(at("router_rl/b/lonely.py", "a + b")) == []


@pytest.mark.slow
def test_a_worker_runs_the_recorded_tests(tmp_path: Path) -> None:
    """A run of the tests is recorded; a worker notices a bug, and one that never ends, and goes on."""
    tree, out = tmp_path / "tree0", tmp_path / "out"
    for name, text in {
        "router_rl/__init__.py": "",
        "router_rl/loop.py": "def total(most):\n    done = 0\n    while done < most:\n        done += 1\n"
        "    return done\n",
        "tests/router_rl/test_loop.py": "from router_rl.loop import total\n\n\n"
        "def test_total():\n    assert total(3) == 3\n",
        "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow']\nfilterwarnings = ['error']\n",
    }.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    out.mkdir()
    mutation_tests.record(out, tree, 1)
    line = MutationSpec(Path("router_rl/loop.py"), "any", 0, (4, 8), (4, 17))
    tests = mutation_tests.CoveringTests(out, tree).of(line)
    assert tests == ["tests/router_rl/test_loop.py::test_total"]
    worker, path = mutation_session.Worker(tree), tree / "router_rl/loop.py"
    source = path.read_text()
    words = []
    for number, (changed, limit) in enumerate(
        [
            (source, 60.0),
            (source.replace("+= 1", "+= 2"), 60.0),
            (source.replace("+= 1", "+= 0"), 5.0),
            (source.replace("done = 0", "done = }"), 60.0),
            (source, 60.0),
        ]
    ):
        path.write_text(changed)
        os.utime(path, (number, number))
        words.append(worker.run("router_rl.loop", tests, limit)[0])
    worker.close()
    assert words == ["survived", "killed", "timeout", "incompetent", "survived"]


def test_the_table_counts_and_lists_survivors() -> None:
    verdicts = [
        mutation.Verdict(place="a.py:1", change="`x` became `y`", killed=True),
        mutation.Verdict(place="a.py:2", change="`x` became `z`", killed=True, slow=True, again=True),
        mutation.Verdict(place="a.py:3", change="`1` became `2`", killed=False),
    ]
    scores = [
        mutation.Score(room="one", verdicts=verdicts),
        mutation.Score(room="two", verdicts=verdicts[:1]),
    ]
    text = mutation.report(scores, "0123456789", 3, 7)
    assert "Commit 0123456, seed 7, 3 viable mutants in each folder." in text
    assert "| one | 3 | 2 | 1 | 1 | 1 | 66.7 (20.8 to 93.9) |" in text
    assert "| all | 4 | 3 | 1 | 1 | 1 | 75.0 (30.1 to 95.4) |" in text
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
    result = mutation_session.WorkResult(
        worker_outcome="normal", output=output, test_outcome=outcome, diff=diff
    )
    change = "`thing = 1 + 2` became `thing = 1 - 2`"
    expected = mutation.Verdict(place="router_rl/b/lonely.py:1", change=change, killed=killed, slow=slow)
    assert mutation._verdict(mutant, result) == expected


def test_the_tests_that_notice_are_those_that_pytest_names() -> None:
    tests = ["tests/a.py::test_x", "tests/a.py::test_x[1]", "tests/b.py::test[a b]", "tests/b.py::test[a"]
    output = "1 passed\nFAILED tests/b.py::test[a b] - assert 1 == 2\nERROR tests/a.py::test_x\n1 failed"
    assert mutation_session.noticing(tests, output) == ["tests/a.py::test_x", "tests/b.py::test[a b]"]
    assert mutation_session.noticing(tests, "INTERNALERROR> KeyError\n") == tests


class _Worker:
    """Tests of `lonely.py` that notice another operator but no other number; its import needs `<`."""

    def __init__(self, tree: Path, crash_at: int = 0) -> None:
        self.tree, self.crash_at, self.unmutated = tree, crash_at, "survived"
        self.source = (tree / "router_rl/b/lonely.py").read_text()
        self.planted: list[str] = []

    def run(self, module: str, tests: list[str], limit: float) -> tuple[str, str]:
        assert (module, tests, limit) == ("router_rl.b.lonely", ["test_it"], 30.0 + 4.0 * 2.0)
        text = (self.tree / "router_rl/b/lonely.py").read_text()
        if text == self.source:
            return self.unmutated, "as committed"
        self.planted.append(text)
        if len(self.planted) == self.crash_at:
            raise RuntimeError("the machine goes down")
        if " < " not in text:
            return "incompetent", ""
        return ("survived", "1 passed") if "+" in text else ("killed", "1 failed in 0.1s")


def test_a_run_continues_where_it_was_cut_off(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A mutant that was cut off runs again, the others do not; the copy is as it was."""
    out, source = tmp_path_factory.mktemp("mutation"), "thing = 1 + 2\nother = 3 < 4\n"
    (tree / "router_rl/b/lonely.py").write_text(source)
    for name in ("pristine", "tree0"):
        shutil.copytree(tree, out / name)
    tests = SimpleNamespace(of=lambda mutant: ["test_it"], seconds=lambda tests: 2.0 * len(tests))

    def score(worker: _Worker, sample: int, session: str = "session") -> Any:
        with mutation_session.use_db(
            str(out / f"{session}.sqlite"), mutation_session.WorkDB.Mode.create
        ) as results:
            found = mutation_session.Session(results, tests, [worker], 4.0).sample("router_rl/b", sample, 0)
        return [mutation._verdict(*one) for one in found]

    cut = _Worker(out / "tree0", crash_at=3)
    with pytest.raises(RuntimeError, match="goes down"):
        score(cut, 99)
    failing = _Worker(out / "tree0")
    failing.unmutated = "killed"
    with pytest.raises(RuntimeError, match="do not pass without a mutant"):
        score(failing, 99, "failing")
    rest = _Worker(out / "tree0")
    whole = score(rest, 99)
    assert set(rest.planted) & set(cut.planted) == {cut.planted[2]}  # the one that was cut off
    again = _Worker(out / "tree0")
    assert score(again, 99) == whole
    assert again.planted == []
    assert (out / "tree0/router_rl/b/lonely.py").read_text() == source
    # Six places: four numbers, which survive; `+`, which is killed; `<`, without which the import fails.
    assert [one.killed for one in whole].count(True) == 1
    assert len(whole) == 5
    (killed,) = (one.change for one in whole if one.killed)
    assert killed.startswith("`thing = 1 + 2` became `thing = 1 ")
    assert score(_Worker(out / "tree0"), 2) == whole[:2]


def survivor(name: str, before: str, after: str) -> tuple[MutationSpec, Any]:
    """Return a mutant of a one-line change that survived."""
    diff = f"--- \n+++ \n@@ -1 +1 @@\n-{before}\n+{after}"
    result = mutation_session.WorkResult(
        worker_outcome="normal", output="", test_outcome=mutation_session.TestOutcome.SURVIVED, diff=diff
    )
    return MutationSpec(Path(name), "any", 0, (1, 8), (1, 9)), result


def test_a_survivor_is_planted_where_its_line_is_today() -> None:
    mutant, result = survivor("router_rl/b/lonely.py", "thing = 1 + 2", "thing = 1 - 2")
    source = "other = 3\nthing = 1 + 2\nnothing = 1 + 2\n"
    today, (before, after) = mutation_again.moved(mutant, result, source)
    assert (today.start_pos, today.end_pos) == ((2, 8), (2, 9))
    assert before == source
    assert after == "other = 3\nthing = 1 - 2\nnothing = 1 + 2\n"
    assert mutation_again.moved(mutant, result, source + "thing = 1 + 2\n") is None  # twice
    assert mutation_again.moved(mutant, result, "thing = 1 + 3\n") is None


@pytest.mark.slow
def test_survivors_run_again_with_slow_tests_and_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutant that a new test notices is killed, one that a slow test notices too; another survives."""
    root, out = tmp_path / "repository", tmp_path / "out"
    head = "import pytest\nfrom router_rl.a.sums import {name}\n\n\n"
    sums = "\n\n".join(
        f"def {name}(a):\n    return a + {number}\n" for number, name in enumerate(("one", "two", "three"), 1)
    )
    first = {
        "router_rl/__init__.py": "",
        "router_rl/a/__init__.py": "",
        "router_rl/a/sums.py": sums,
        "tests/router_rl/a/test_slow.py": head.format(name="two")
        + "@pytest.mark.slow\ndef test_two():\n    assert two(1) == 3\n",
        "tests/router_rl/a/test_quick.py": head.format(name="three") + "def test_three():\n    three(1)\n",
        "pyproject.toml": "[tool.pytest.ini_options]\nmarkers = ['slow']\n",
    }
    monkeypatch.setattr(mutation_session, "ROOT", root)
    root.mkdir()
    mutation_session.git("init", "--quiet")

    def commit(files: dict[str, str]) -> str:
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        mutation_session.git("add", "-A")
        mutation_session.git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "files")
        return mutation_session.git("rev-parse", "HEAD").decode().strip()

    def asserting(name: str, value: int) -> str:
        return head.format(name=name) + f"def test_{name}():\n    assert {name}(1) == {value}\n"

    began = commit(first)
    commit({"tests/router_rl/a/test_new.py": asserting("one", 2)})
    out.mkdir()
    results = []
    for number, line in enumerate((2, 6, 10)):
        mutant, result = survivor(
            "router_rl/a/sums.py", f"    return a + {number + 1}", f"    return a - {number + 1}"
        )
        place = {"start_pos": (line, 13), "end_pos": (line, 14), "occurrence": number}
        results.append((mutation_again.evolve(mutant, **place), result))
    killed = mutation_again.killed_again(out, began, results, 1, 4.0)
    assert killed == {mutation_sample.identifier(mutant) for mutant, _ in results[:2]}
    commit({"tests/router_rl/a/test_newer.py": asserting("three", 4)})
    killed = mutation_again.killed_again(out, began, results, 1, 4.0)
    assert killed == {mutation_sample.identifier(mutant) for mutant, _ in results}


def test_a_copy_that_imports_another_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree0").mkdir()
    with pytest.raises(SystemExit, match="does not import its own router_rl"):
        mutation_session.Worker(tmp_path / "tree0")
