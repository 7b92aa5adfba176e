"""What the site adds to the pages: the reference of the command line, and links to files outside `docs/`.

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
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the page of the command line, made from the parsers."""
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Replace a link to a file outside `docs/` by the file's name: the site does not hold it."""
    folder = (ROOT / "docs" / page.file.src_uri).parent

    def name(match: re.Match[str]) -> str:
        target = match[0].rpartition("](")[2].rstrip(")").partition("#")[0]
        inside = (folder / target).resolve().is_relative_to(ROOT / "docs")
        return match[0] if inside else f"{match[1]} (`{match[2]}`)"

    return OUTSIDE.sub(name, markdown)


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
