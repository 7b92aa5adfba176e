"""The inference floor: load a router and route with it. Imports torch only.

```python
from router_rl.routing import load

router = load("router/")
routing = router(features)  # .experts [T, k], .weights [T, k], .logits [T, N], .fallback [T]
```
"""

from .errors import RouterError
from .router import Router, Routing, StateInput
from .scorers import SCORERS, ConstantScorer, LinearScorer, MLPScorer, Scorer
from .selection import SELECTIONS, Choice, Hard, Selection, TopK, gumbel, selection_from_spec
from .storage import load

__all__ = [
    "SCORERS",
    "SELECTIONS",
    "Choice",
    "ConstantScorer",
    "Hard",
    "LinearScorer",
    "MLPScorer",
    "Router",
    "RouterError",
    "Routing",
    "Scorer",
    "Selection",
    "StateInput",
    "TopK",
    "gumbel",
    "load",
    "selection_from_spec",
]
