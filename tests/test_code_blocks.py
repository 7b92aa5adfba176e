"""Every code block of the README, of `docs/*.md` and of `docs/reference` runs, in small budgets.

The pages are read in one folder, one after the other, so that a page finds what an earlier one made, and a
comparison that stands on several pages runs once. A block that cannot run says why in a comment before it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from code_blocks import ROOT, Block, Reader, blocks_of
from printed_numbers import alike

from experts import SOURCES, OutcomeTable
from router_rl.exports.registry import FORMATS
from router_rl.methods.registry import METHODS
from router_rl.problems.registry import PROBLEMS

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest needs it there
    import tomli as tomllib

READ = ("README.md", "docs/tutorial.md", "docs/guide.md", "docs/patch.md", "docs/replay.md", "docs/extend.md")
NOT_RUN = {"README.md": 1, "docs/mixtures.md": 1, "docs/em.md": 1, "docs/k1_trap.md": 1, "docs/RESULTS.md": 2}
OUTPUT = ("text",)  # what a command prints, or the content of a file
PLUGIN = ROOT / "tests" / "fixtures" / "plugin"
BUDGETS = {
    "compare": "--seeds 1 --n-trials 1",
    "compare --env queueing": "--methods round_robin --problem.episodes 2 --problem.window 8",
    "train --env queueing": "--problem.episodes 2 --problem.window 8 --method.iterations 1 --method.lanes 4 "
    "--method.states 32 --method.validation-lanes 4 --method.horizon 4",
    "train --env cascade": "--method.steps 20",
    "train --env token_moe": "--problem.length 10 --problem.train 8 --problem.validation 4 --problem.test 4 "
    "--problem.epochs 1",
    "train --env token_moe --problem.pool answers": "--method.iterations 2",
    "train --table digits.parquet": "--n-trials 1 --method.epochs 2",
    "train --table mine.parquet": "--n-trials 1 --method.epochs 2",
}


def pages() -> list[str]:
    """Return the pages whose code runs: not the logs in `docs/benchmarks`, whose commands take hours."""
    found = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "reference").glob("*.md")]
    return ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in found)]


def code_of(page: str) -> list[Block]:
    return [block for block in blocks_of(page) if block.language not in OUTPUT]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the package of `docs/extend.md` importable, with its entry points, during one test."""
    info = tmp_path / "site" / "router_rl_toy-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: router-rl-toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text((PLUGIN / "entry_points.txt").read_text(encoding="utf-8"))
    for folder in (info.parent, PLUGIN):
        monkeypatch.syspath_prepend(str(folder))
    registries = (SOURCES, FORMATS, METHODS, PROBLEMS)
    for registry in registries:
        registry.__dict__.pop("installed", None)
    yield
    for registry in registries:
        registry.__dict__.pop("installed", None)


def test_no_page_is_forgotten() -> None:
    """A page whose code is not run here has a test of its own, which names the page."""
    tests = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    with_code = {page for page in pages() if any(not block.reason for block in code_of(page))}
    assert set(READ) <= with_code
    forgotten = [
        page for page in sorted(with_code - {*READ}) if not any(Path(page).name in text for text in tests)
    ]
    assert forgotten == []


def test_few_blocks_do_not_run_and_each_says_why() -> None:
    counts = {page: sum(bool(block.reason) for block in blocks_of(page)) for page in pages()}
    assert {page: count for page, count in counts.items() if count} == NOT_RUN


@pytest.mark.parametrize("page", pages())
def test_code_is_fenced_and_names_its_language(page: str) -> None:
    assert [block.place for block in blocks_of(page) if not block.language] == []
    outside = re.sub(
        r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert re.findall(r"^ {4}(?:python|make|train_router|train-router)\b.*$", outside, re.MULTILINE) == []


@pytest.mark.slow
@pytest.mark.timeout(900)  # less than a minute of an idle core
@pytest.mark.usefixtures("plugin")
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dense: Callable[..., Any]) -> None:
    monkeypatch.chdir(tmp_path)
    _write_results()
    _write_language_models(dense)
    reader = Reader(BUDGETS, {"collect": _thin_digits})
    for page in READ:
        for block in code_of(page):
            if block.reason or block.title:  # a file of the plugin
                continue
            if block.language == "sh" and block.text.startswith("pip install .\n"):
                block = _without_installation(block)
            reader.run(block)
    assert reader.used == {*BUDGETS, "collect"}
    for folder in ("router", "router-pt2", "router-onnx", "router-npz"):
        assert json.loads((tmp_path / folder / "parity.json").read_text())["passed"], folder
    OutcomeTable.read(tmp_path / "own.parquet")
    results = json.loads((tmp_path / "runs" / "gsm8k" / "results.json").read_text(encoding="utf-8"))
    (said,) = (block.text for block in blocks_of("README.md") if block.language == "text")
    assert alike(said, results["recommendation"]["sentence"])


def test_the_files_of_a_plugin_are_those_of_the_package_that_is_tested() -> None:
    blocks = [block for block in blocks_of("docs/extend.md") if block.title]
    assert {block.title for block in blocks if block.language == "python"} == {
        path.relative_to(PLUGIN).as_posix()
        for path in PLUGIN.rglob("*.py")
        if path.name not in ("__init__.py", "conftest.py")
    }
    for block in blocks:
        if block.language == "python":
            assert block.text == (PLUGIN / block.title).read_text(encoding="utf-8"), block.place
    (project,) = (block for block in blocks if block.language == "toml")
    lines = (PLUGIN / "entry_points.txt").read_text(encoding="utf-8").splitlines()
    written = tomllib.loads(project.text)["project"]["entry-points"]
    assert [f"{name} = {value}" for group in written.values() for name, value in group.items()] == [
        line for line in lines if "=" in line
    ]
    assert [f"[{group}]" for group in written] == [line for line in lines if line.startswith("[")]


def test_a_block_that_fails_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    reader = Reader({"list": "--env cascade"}, {})
    reader.command("train_router.py list --env routing", "here")
    with pytest.raises(AssertionError, match="page:3"):
        reader.command("train_router.py evaluate none", "page:3")
    with pytest.raises(AssertionError, match="page:4"):
        reader.command("rm -r /tmp/none", "page:4")
    assert reader.used == {"list"}


def _without_installation(block: Block) -> Block:
    """Return the block without its first line: the package is installed, and `nox -s wheel` installs it."""
    text = block.text.partition("\n")[2]
    return Block(place=block.place, language="sh", title="", text=text, reason="")


def _write_results() -> None:
    """Write the table that the README describes: the small model knows one word, the large one nearly all."""
    rows = [
        f"what is {word} {row},{int(word == 'red')},0.001,{int(word == 'blue' or row % 4 > 0)},0.01"
        for row in range(60)
        for word in ("red", "blue")
    ]
    header = "prompt,quality/small,cost/small,quality/large,cost/large"
    Path("results.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def _thin_digits() -> None:
    """Keep every sixth query, so that what follows is quick."""
    table = OutcomeTable.read("digits.parquet", progress=False)
    table.take(np.arange(0, len(table), 6)).write("digits.parquet")


def _write_language_models(dense: Callable[..., Any]) -> None:
    """Write a base, two models that were fine-tuned from it, and two texts."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    base = dense(Path("llama"))
    for name in ("llama-code", "llama-german"):
        dense(Path(name), near=base)
    words: Any = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained("llama")
    Path("texts").mkdir()
    for step, name in ((1, "code"), (3, "german")):
        lines = [" ".join(f"w{(start + step * i) % 64}" for i in range(24)) for start in range(64)]
        Path("texts", f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
