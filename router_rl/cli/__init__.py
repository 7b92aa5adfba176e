"""The commands of the command line: each a function whose arguments are its options."""

from .registry import COMMANDS, Command

__all__ = ["COMMANDS", "Command"]
