"""What the site adds to the pages: notebooks, the reference of the command line, links out of `docs/`.

MkDocs calls these functions (`hooks` in mkdocs.yml).
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = re.compile(r"\]\(([\w/.-]+)\.ipynb\)")
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the page of the command line, made from the parsers, and a page for each notebook."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        text, pictures = notebook_page(Path(notebook.abs_src_path or ""))
        page = str(Path(notebook.src_uri).with_suffix(".md"))
        files.append(File.generated(config, page, content=text))
        for name, content in pictures.items():
            place = str(Path(notebook.src_uri).with_name(name))
            files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replace a link out of `docs/` by the file's name, and a link to a notebook by one to its page."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def name(match: re.Match[str]) -> str:
        target = match[0].rpartition("](")[2].rstrip(")").partition("#")[0]
        inside = (folder / target).resolve().is_relative_to(ROOT / "docs")
        return match[0] if inside else f"{match[1]} (`{match[2]}`)"

    return NOTEBOOK.sub(r"](\1.md)", OUTSIDE.sub(name, markdown))


def notebook_page(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return an executed notebook as Markdown, with its outputs, and its pictures by file name.

    Args:
        path: the notebook; it is not run.
    """
    from nbconvert import MarkdownExporter

    exporter = MarkdownExporter()
    text, resources = exporter.from_filename(str(path), resources={"unique_key": path.stem})
    return text, dict(resources["outputs"])


def commands_page() -> str:
    """Return the help of every command, as Markdown."""
    import train_router
    from router_rl.cli import COMMANDS

    intro = "The help of each command, as `train-router COMMAND --help` prints it."
    parts = ["# The command line", "", intro, ""]
    for command, (_, about) in COMMANDS.items():
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            train_router.main([command, "--help"])
        parts += [f"## {command}", "", f"{about}", "", "```text", printed.getvalue().rstrip(), "```", ""]
    return "\n".join(parts)
