"""Registry of commands: module and help line of each. A new command is one file and one line here.

A command's module is imported when the command runs, which keeps `--help` and `list` fast.
"""

from __future__ import annotations

from importlib import import_module

from .command import Command

__all__ = ["COMMANDS", "find_command"]

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo_command", "Route between digit classifiers, then between two language models."),
    "import": ("import_command", "Convert your own results or public benchmarks to an outcome table."),
    "collect": ("collect_command", "Run experts or language models once on every query."),
    "train": ("train_command", "Train one method on one problem."),
    "tune": ("tune_command", "Search the hyperparameters of one method, on validation rows."),
    "compare": ("compare_command", "Compare methods on the same data, trials and seeds, with 95% CIs."),
    "evaluate": ("evaluate_command", "Evaluate a trained router on a table or a decision log."),
    "runs": ("runs_command", "List training runs and comparisons, or show how two differ."),
    "monitor": ("monitor_command", "Detect experts that changed since training, from a decision log."),
    "export": (
        "export_command",
        "Export a trained router for inference code, with a parity check.",
    ),
    "add-expert": ("add_expert_command", "Add an expert to a trained router from a few of its answers."),
    "serve": ("serve_command", "Serve OpenAI chat completions: route, log every decision, explore."),
    "promote": ("promote_command", "Let running servers serve another router, or try it on a fraction."),
    "rollback": ("rollback_command", "Let running servers return to the previous router."),
    "log": ("log_command", "Export the decision log of `serve`, or import LiteLLM's."),
    "bench": ("bench_command", "Time training methods or an exported router against alternatives."),
    "profile": ("profile_command", "Count a model's parameters, FLOPs and bytes from its settings."),
    "assemble": ("assemble_command", "Merge fine-tuned models of one ancestor into a mixture of experts."),
    "handover": ("handover_command", "Fold a mixture's trained routers into stock gates, as a patch."),
    "patch": ("patch_command", "Write trained routers into a mixture-of-experts model."),
    "list": ("list_command", "List problems, methods, selection rules, sources and formats."),
}


def find_command(name: str) -> Command:
    """Import a command.

    Args:
        name: one of `COMMANDS`.
    """
    command: Command = import_module(f"{__package__}.{COMMANDS[name][0]}").COMMAND
    return command
