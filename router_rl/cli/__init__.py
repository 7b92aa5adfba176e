"""The commands of the command line. Each is a function whose arguments are its options."""

from .command import Command
from .registry import COMMANDS, find_command

__all__ = ["COMMANDS", "Command", "find_command"]
