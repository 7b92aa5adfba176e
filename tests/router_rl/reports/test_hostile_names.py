"""Names of experts, groups and methods from outside, through every view of a run and of a comparison."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console, Group
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_router
from experts import OutcomeTable
from router_rl.cli.command import Command
from router_rl.exports.readme import readme
from router_rl.reports.html_report import write_report
from router_rl.reports.markdown import markdown
from router_rl.reports.terminal import evaluation_view, facts_view, results_view
from router_rl.routing import ConstantScorer, Hard, Router
from router_rl.studies.tracking.tensorboard_tracker import TensorBoardTracker
from router_rl.studies.tracking.tracked_values import summary_of
from router_rl.studies.tracking.tracker import TrackedRun


@dataclass(frozen=True)
class _Hyperparameters:
    rate: float = 0.1


SAMPLES = runpy.run_path(str(Path(__file__).with_name("test_html_report.py")))
NAMES = (
    "\x1b[31mred\x1b[0m",
    "[bold red]loud[/bold red]",
    "<script>alert('x')</script>",
    "a|b`c`\n# title",
    "\u202egnp.exe :smile:",
    "../../up",
)


def renamed(value: Any, names: dict[str, str]) -> Any:
    """A value of JSON with some texts replaced, in the names of dicts and within sentences too."""
    if isinstance(value, str):
        for old, new in names.items():
            value = value.replace(old, new)
        return value
    if isinstance(value, dict):
        return {renamed(name, names): renamed(item, names) for name, item in value.items()}
    return [renamed(item, names) for item in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """A comparison whose experts, groups and methods have hostile names."""
    sample = SAMPLES["sample_results"]()
    old = ["ridge", *sample["problem"]["experts"][:4], sample["shares_by_group"]["groups"][0]]
    return renamed(sample, dict(zip(old, NAMES, strict=True))) | {"warnings": list(NAMES)}


def is_plain(text: str) -> bool:
    """Whether a text of several lines has no control characters."""
    return all(line.isprintable() for line in text.replace("\xa0", " ").split("\n"))


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.titles: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.titles += [value or "" for name, value in attrs if name == "title"]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_the_report_shows_names_as_text(results: dict[str, Any], tmp_path: Path) -> None:
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    page, _, script = page.partition("</script>\n<script>")  # the bundle is not made of names
    assert script.startswith("(function") or len(script) > 500_000
    assert is_plain(page.replace("\u202f", " ").replace("\u2009", " "))
    parsed = _Tags()
    parsed.feed(page)
    assert page.count("<script") == 1
    assert "<script>alert('x')</script>" in parsed.text
    assert "\\x1b[31mred\\x1b[0m" in parsed.text
    assert "\\u202egnp.exe" in parsed.text


def test_markdown_keeps_its_tables(results: dict[str, Any]) -> None:
    text = markdown(results, "title")
    assert is_plain(text)
    tables = [line for line in text.split("\n") if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert len(cells) == 1
    assert not re.search(r"(?<!\\)<", text)
    assert not re.search(r"(?<!\\)`", text)
    assert not re.search(r"(?m)^# ", text)


def test_terminal_views_show_names_as_text(
    results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    command = train_router.find_command("compare")
    train_router._show(command, results)
    printed = capsys.readouterr().out
    assert is_plain(printed)
    assert "[bold red]loud[/bold red]" in printed
    assert ":smile:" in printed
    assert "\\x1b[31mred\\x1b[0m" in printed


@pytest.mark.parametrize("view", [facts_view, evaluation_view])
def test_views_need_no_special_console(view: Any) -> None:
    """Markup in a name is not read by a console that reads markup."""
    names = ["[red]x[/red]", "[/]"]
    result = {
        "method": names[0],
        "experts": names,
        "test": {"utility": 1.0, "shares": [0.5, 0.5]},
        "inputs": names,
        "cases": [
            {"label": names[0], "test": {"utility": 1.0}},
            {"label": names[1], "test": {"utility": 1.0}},
        ],
    }
    console = Console(width=200)
    with console.capture() as captured:
        console.print(view(result))
    assert "[red]x[/red]" in captured.get()
    assert "[/]" in captured.get()


def test_results_view_needs_no_special_console(results: dict[str, Any]) -> None:
    console = Console(width=80)
    with console.capture() as captured:
        console.print(results_view(results))
    assert "[bold red]loud[/bold red]" in captured.get()


def test_texts_of_a_view_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(
        run=dict, view=lambda result: Group(result["name"], result["text"]), documents=("text",)
    )
    train_router._show(command, {"name": "[red]x[/] :smile:\n\x1b[1m", "text": "a\nb"})
    assert capsys.readouterr().out == "[red]x[/] :smile:\\n\\x1b[1m\na\nb\n"


def test_readmes_of_exports_show_names_as_text() -> None:
    text = readme(Router(ConstantScorer(2, len(NAMES)), Hard(), NAMES), "safetensors", "code")
    assert is_plain(text)
    assert len(re.findall(r"(?m)^# ", text)) == 1
    assert not re.search(r"(?<!\\)<", text)


def test_tags_of_tensorboard_have_the_parts_they_should(tmp_path: Path) -> None:
    board = TensorBoardTracker()
    board.start(TrackedRun(job="trial", name="a", folder=tmp_path, config=dict.fromkeys(NAMES, 1)))
    means = {f"{name} utility": 1.0 for name in NAMES}
    board.finish(summary_of({NAMES[5]: {"test": means}}, None), ())
    events = EventAccumulator(str(tmp_path / "tensorboard" / "a"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert len(tags) == 2 * len(NAMES)
    for tag in tags:
        assert tag.isprintable()
        assert tag.count("/") == (2 if tag.startswith("final/") else 1)
        assert ".." not in Path(tag).parts


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table whose experts, queries and source have hostile names."""
    rng = np.random.default_rng(0)
    quality = (rng.random((60, len(NAMES))) < 0.5).astype(np.float32)
    made = OutcomeTable(
        experts=NAMES,
        query_id=np.array([f"{NAMES[0]}{row}" for row in range(60)], dtype=object),
        features=rng.normal(size=(60, 2)).astype(np.float32),
        quality=quality,
        cost=np.tile(np.arange(1.0, 1.0 + len(NAMES), dtype=np.float32), (60, 1)),
        split=np.array(["train", "train", "validation", "test"], dtype=object)[np.arange(60) % 4],
        group=np.array(NAMES, dtype=object)[np.arange(60) % len(NAMES)],
        source=NAMES[1],
    )
    path = tmp_path_factory.mktemp("tables") / "[red]t[_red]\x1b.parquet"
    made.write(path)
    return path


def test_commands_print_names_as_text(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = str(tmp_path / "run [red]"), str(tmp_path / "router")
    for words in (
        ["train", "--table", str(table), "--method", "ridge", "--out", run],
        ["evaluate", run, "--table", str(table)],
        ["import", str(table), "--out", str(tmp_path / "imported.parquet")],
        ["export", run, "--out", out],
    ):
        assert train_router.main(words) == 0
        captured = capsys.readouterr()
        assert is_plain(captured.out + captured.err)
        assert "Traceback" not in captured.err
        if words[0] != "export":
            assert "[bold red]loud[/bold red]" in captured.out
    assert json.loads((tmp_path / "router" / "router.json").read_text())["experts"] == list(NAMES)
    assert train_router.main(["evaluate", run, "--table", str(table), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["experts"] == list(NAMES)
