"""Language models as experts: request answers, journal them and score them.

`import experts.llm` imports neither LiteLLM nor Ray; requests do (extras `[llm]` and `[scale]`).
"""

from .asking import litellm_parameters
from .collecting import Collected, collect_answers
from .endpoints import Endpoint, Judge, ModelList, read_models
from .journal import Journal
from .questions import Questions, read_questions
from .scoring import SCORERS, exact_match, multiple_choice, numeric, scorer_named

__all__ = [
    "SCORERS",
    "Collected",
    "Endpoint",
    "Journal",
    "Judge",
    "ModelList",
    "Questions",
    "collect_answers",
    "exact_match",
    "litellm_parameters",
    "multiple_choice",
    "numeric",
    "read_models",
    "read_questions",
    "scorer_named",
]
