"""A prompt router's export covers its text pipeline: parity on prompts, and a README that routes a prompt."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experts import InputError, OutcomeTable
from router_rl.exports import export
from router_rl.exports import safetensors as safetensors_format
from router_rl.routing import LinearScorer, Router, RouterError, TextFeatures, TopK, load_router
from router_rl.routing.text import Group, Length, Terms

NAMES = ("small", "large")


def prompt_router(*, grouped: bool = False) -> Router:
    """A router of hashed words, length and maybe the group."""
    generator = torch.Generator().manual_seed(0)
    terms = Terms(
        analyser="word",
        ngram_range=(1, 2),
        projection=torch.randn(64, 3, generator=generator),
        offset=torch.zeros(3),
    )
    parts: list[Any] = [terms, Length()]
    if grouped:
        values, shares = torch.rand(3, 2), torch.tensor([0.5, 0.5])
        parts.append(Group(labels=["maths", "law"], values=values, shares=shares, required=True))
    text = TextFeatures(parts)
    scorer = LinearScorer(text.size, len(NAMES))
    with torch.no_grad():
        scorer.weight.normal_(generator=generator)
    return Router(scorer, TopK(k=2), NAMES, text=text).eval()


def prompts_table(*, group: bool = False) -> OutcomeTable:
    """A table of prompts without features."""
    prompts = [f"question {n} about {'maths' if n % 2 else 'law'} {'more ' * (n % 7)}" for n in range(60)]
    return OutcomeTable(
        experts=NAMES,
        query_id=np.array([f"q{n}" for n in range(60)], dtype=object),
        features=None,
        quality=np.resize(np.array([0.0, 1.0, 1.0, 0.0], dtype=np.float32), (60, 2)),
        cost=np.tile(np.array([1.0, 3.0], dtype=np.float32), (60, 1)),
        split=np.resize(["train", "validation", "test"], 60),
        prompt=np.array(prompts, dtype=object),
        group=np.resize(np.array(["maths", "law"], dtype=object), 60) if group else None,
    )


class Problem:
    """What `export` reads of a problem."""

    def __init__(self, table: OutcomeTable | None) -> None:
        self.table = table

    def parity_rows(self) -> OutcomeTable | None:
        return self.table


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_prompts_of_the_rows_are_part_of_parity(tmp_path: Path, grouped: bool, wrapped: bool) -> None:
    router, table = prompt_router(grouped=grouped), prompts_table(group=grouped)
    export(router, tmp_path / "out", rows=Problem(table) if wrapped else table)
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert (written["rows_from"], written["rows"]) == ("table", 64)
    assert (written["text"]["prompts_from"], written["text"]["rows"]) == ("table", 60)
    assert written["text"]["passed"]
    loaded = load_router(tmp_path / "out")
    for prompt in table.prompt[:5]:  # type: ignore[index]
        group = "law" if grouped else None
        assert loaded.route(prompt, group).experts.equal(router.route(prompt, group).experts)


def test_without_rows_made_prompts_are_compared(tmp_path: Path) -> None:
    export(prompt_router(), tmp_path / "out", rows=Problem(None))
    written = json.loads((tmp_path / "out" / "parity.json").read_text())
    assert written["rows_from"] == "random"
    assert (written["text"]["prompts_from"], written["text"]["passed"]) == ("synthetic", True)


def test_a_wrong_text_pipeline_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router = prompt_router()
    other = TextFeatures([router.text.parts[0], Length()])  # type: ignore[union-attr]
    other.parts[0].projection = -router.text.parts[0].projection  # type: ignore[attr-defined, union-attr]
    broken = prompt_router()
    part = broken.text.parts[0]  # type: ignore[union-attr]
    part.projection = part.projection.flip(0)  # type: ignore[attr-defined]
    write = safetensors_format.write

    def writes_another(router: Router, folder: Path) -> None:
        write(broken, folder)

    monkeypatch.setattr(
        safetensors_format, "FORMAT", replace(safetensors_format.FORMAT, write=writes_another)
    )
    with pytest.raises(RouterError, match="does not agree"):
        export(router, tmp_path / "out", rows=prompts_table())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("grouped", [False, True])
def test_the_readme_routes_a_prompt(tmp_path: Path, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    export(prompt_router(grouped=grouped), tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    call = 'router.route("a prompt", "its group")' if grouped else 'router.route("a prompt")'
    assert call in text
    assert ("from prompts and groups, or" if grouped else "from prompts, or") in text
    block = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["experts"].shape == (1, 2)


def test_other_formats_say_where_the_features_come_from(tmp_path: Path) -> None:
    export(prompt_router(), tmp_path / "out", format="vllm")
    assert "export it as safetensors" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "text.json").exists()
    assert "text" not in json.loads((tmp_path / "out" / "parity.json").read_text())


def test_rows_are_a_table_or_a_problem(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows='list': is neither a table nor a problem"):
        export(prompt_router(), tmp_path / "out", rows=[1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"table=.*is called rows since version 2; pass rows="):
        export(prompt_router(), tmp_path / "out", table=prompts_table())
    assert list(tmp_path.iterdir()) == []
