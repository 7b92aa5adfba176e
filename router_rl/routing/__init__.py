"""The inference floor: load a router and route with it. Imports torch only.

```python
from router_rl.routing import load

router = load("router/")
routing = router(features)  # .experts [T, k], .weights [T, k], .logits [T, N], .fallback [T]
routing = router.route("Is 7 prime?")  # the same, where the router was trained on prompts
```
"""

from .circuit_breaker import Health
from .policies.live_queues import LiveQueues, queue_state_inputs
from .router import Router, Routing, StateInput
from .router_error import RouterError
from .scorers.conditioned_scorer import ConditionedScorer
from .scorers.dense import SCORERS, ConstantScorer, LinearScorer, MLPScorer, Scorer
from .scorers.hash_scorer import HashScorer
from .scorers.knn_scorer import KNNScorer
from .scorers.priced_scorer import PricedScorer
from .scorers.queue_scorer import QueueScorer
from .selection import (
    SELECTIONS,
    AdaptiveK,
    Choice,
    ExpertChoice,
    Hard,
    Hierarchical,
    ScoredTopK,
    Selection,
    Soft,
    TopK,
    Tree,
    gumbel,
    selection_from_spec,
)
from .storage import load
from .text import TextFeatures

__all__ = [
    "SCORERS",
    "SELECTIONS",
    "AdaptiveK",
    "Choice",
    "ConditionedScorer",
    "ConstantScorer",
    "ExpertChoice",
    "Hard",
    "HashScorer",
    "Health",
    "Hierarchical",
    "KNNScorer",
    "LinearScorer",
    "LiveQueues",
    "MLPScorer",
    "PricedScorer",
    "QueueScorer",
    "Router",
    "RouterError",
    "Routing",
    "ScoredTopK",
    "Scorer",
    "Selection",
    "Soft",
    "StateInput",
    "TextFeatures",
    "TopK",
    "Tree",
    "gumbel",
    "load",
    "queue_state_inputs",
    "selection_from_spec",
]
