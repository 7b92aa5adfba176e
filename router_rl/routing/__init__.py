"""The inference floor: load a router or a policy and decide with it. Imports torch only.

```python
from router_rl.routing import load

router = load("router/")
routing = router(features)  # .experts [T, k], .weights [T, k], .logits [T, N], .fallback [T]
routing = router.route("Is 7 prime?")  # the same, where the router was trained on prompts
```
"""

from .circuit_breaker import CircuitBreaker
from .policies.live_queues import LiveQueues, queue_state_inputs, server_state_inputs
from .policies.policy import Policy
from .policies.registry import POLICIES
from .router import Router, Routing, StateInput
from .router_error import RouterError
from .scorers.conditioned_scorer import ConditionedScorer
from .scorers.dense import ConstantScorer, LinearScorer, MLPScorer
from .scorers.guarded_knn_scorer import GuardedKNNScorer
from .scorers.hash_scorer import HashScorer
from .scorers.kernel_scorer import KernelScorer
from .scorers.knn_scorer import KNNScorer
from .scorers.lookup_scorer import LookupScorer
from .scorers.priced_scorer import PricedScorer
from .scorers.queue_scorer import QueueConstants, QueueScorer
from .scorers.registry import SCORERS
from .scorers.residual_scorer import ResidualScorer
from .scorers.scorer import LinearForm, Scorer
from .scorers.server_scorer import ServerConstants, ServerScorer
from .scorers.stored_rows import StoredRowsScorer
from .scorers.tree_scorer import TreeScorer
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
    UnnormalisedTopK,
    gumbel,
    selection_from_spec,
)
from .storage import load, load_router
from .text import TextFeatures

__all__ = [
    "POLICIES",
    "SCORERS",
    "SELECTIONS",
    "AdaptiveK",
    "Choice",
    "CircuitBreaker",
    "ConditionedScorer",
    "ConstantScorer",
    "ExpertChoice",
    "GuardedKNNScorer",
    "Hard",
    "HashScorer",
    "Hierarchical",
    "KNNScorer",
    "KernelScorer",
    "LinearForm",
    "LinearScorer",
    "LiveQueues",
    "LookupScorer",
    "MLPScorer",
    "Policy",
    "PricedScorer",
    "QueueConstants",
    "QueueScorer",
    "ResidualScorer",
    "Router",
    "RouterError",
    "Routing",
    "ScoredTopK",
    "Scorer",
    "Selection",
    "ServerConstants",
    "ServerScorer",
    "Soft",
    "StateInput",
    "StoredRowsScorer",
    "TextFeatures",
    "TopK",
    "Tree",
    "TreeScorer",
    "UnnormalisedTopK",
    "gumbel",
    "load",
    "load_router",
    "queue_state_inputs",
    "selection_from_spec",
    "server_state_inputs",
]
