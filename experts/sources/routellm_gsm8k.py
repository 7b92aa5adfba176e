"""1,319 grade-school mathematics problems, answered by GPT-4 and Mixtral; costs in US$.

Source: I. Ong et al., RouteLLM: Learning to Route LLMs with Preference Data, 2024,
https://arxiv.org/abs/2406.18665. The file `routellm/evals/gsm8k/gsm8k_responses.csv` of
https://github.com/lm-sys/RouteLLM (commit 0b64fda, Apache-2.0) has the answers; the questions are the test
set of GSM8K (K. Cobbe et al., 2021, https://arxiv.org/abs/2110.14168, MIT). NOTICE says what was changed.
"""

from __future__ import annotations

from pathlib import Path

from ..io.errors import InputError
from .recorded_table import RecordedTable

__all__ = ["routellm_gsm8k"]


def routellm_gsm8k(argument: str | None = None) -> RecordedTable:
    """Return the source: prompts, quality (1 if the answer is right), tokens and US$ of two language models.

    Folds 0 to 2 of the table train, 3 validates and 4 tests.

    Args:
        argument: None; this source takes no argument.

    Raises:
        InputError: there is an argument.
    """
    if argument is not None:
        raise InputError("routellm_gsm8k", argument, "takes no argument", 'use "routellm_gsm8k"')
    return RecordedTable(
        name="routellm_gsm8k",
        about="RouteLLM's answers of GPT-4 and Mixtral to the 1,319 test problems of GSM8K, 8-shot",
        path=Path(__file__).parent / "tables" / "routellm_gsm8k.parquet",
    )
