"""A command on several processes of `torchrun`: the first one writes and prints.

The others run the same command in a temporary folder, from a copy of the first one's files: they resume where
it does. The folder is removed when the process ends.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experts import InputError

__all__ = ["launched", "options_of_process"]


def launched() -> bool:
    """Return whether this is one of several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def options_of_process(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a command in this process.

    Args:
        name: of the command.
        options: as they were given.

    Raises:
        InputError: the command does not run on several processes.
    """
    if name != "train" or options.get("env") != "token_moe":
        problem = "runs on several processes for train --env token_moe only"
        raise InputError("command", name, problem, "start it without torchrun")
    import torch

    from ..methods.token_moe.processes import processes

    own = dict(options)
    if processes().rank > 0:
        scratch = Path(tempfile.mkdtemp(prefix="router-rl-process-"))
        atexit.register(shutil.rmtree, scratch, ignore_errors=True)
        out = Path(own["out"])
        if out.is_dir():
            shutil.copytree(out, scratch / "run")
        own["out"] = scratch / "run"
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
    torch.distributed.barrier()  # nobody writes before everybody has the files
    return own
