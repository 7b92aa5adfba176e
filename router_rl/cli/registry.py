"""Every command: where it stands, and its line in `--help`. A new one is a file and a line here.

A command's module is imported when the command runs, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

from importlib import import_module

from .command import Command

__all__ = ["COMMANDS", "find_command"]

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": (
        "demo_command",
        "Route between seven digit classifiers: train, compare and export in two minutes.",
    ),
    "import": ("import_command", "Turn results of your own or of public benchmarks into an outcome table."),
    "collect": ("collect_command", "Run experts, or ask language models, once on every query."),
    "train": ("train_command", "Train one method on one problem."),
    "compare": ("compare_command", "Compare methods: same data, trials and seeds, with intervals."),
    "evaluate": ("evaluate_command", "Measure a trained router on a table or a decision log."),
    "monitor": ("monitor_command", "Test a decision log for experts that have changed since training."),
    "export": (
        "export_command",
        "Write a trained router for inference code, checked against the trained one.",
    ),
    "bench": ("bench_command", "Time learners, or an exported router, as ratios of one run."),
    "profile": ("profile_command", "Count a model's parameters, FLOPs and bytes from its configuration."),
    "assemble": ("assemble_command", "Assemble fine-tuned models of one ancestor into a mixture of experts."),
    "handover": ("handover_command", "Fold a mixture's trained routers into stock gates, as a patch."),
    "patch": ("patch_command", "Write a patch's routers into a mixture-of-experts model."),
    "list": ("list_command", "List problems, methods, selection rules, sources and export formats."),
}


def find_command(name: str) -> Command:
    """Import a command.

    Args:
        name: one of `COMMANDS`.
    """
    found: Command = import_module(f"{__package__}.{COMMANDS[name][0]}").COMMAND
    return found
