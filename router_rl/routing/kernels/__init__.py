"""The gate three times over: naive reference, torch, Triton; one answer. And as one torch operator.

```python
from router_rl.routing import load
from router_rl.routing.kernels import Gate

gate = Gate.of(load("router/"), dispatch=True)
routed = gate(hidden)  # .weights [T, k], .experts [T, k], .dispatch.counts [E], .dispatch.order [T * k]
```
"""

from .gate import Gate
from .kernel_rule import Dispatch, GateRule, Routed
from .operator import decompositions, route
from .torch_path import gather, scatter_back

__all__ = ["Dispatch", "Gate", "GateRule", "Routed", "decompositions", "gather", "route", "scatter_back"]
