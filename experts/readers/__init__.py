"""Readers of evaluation results in other projects' formats, one outcome of an expert on a query at a time."""

from .files import records, result_files
from .outcome import Outcome, Reader, ReaderOptions
from .registry import FORMATS, find_format

__all__ = ["FORMATS", "Outcome", "Reader", "ReaderOptions", "find_format", "records", "result_files"]
