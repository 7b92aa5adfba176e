"""The gate in four implementations with equal results (naive, torch, eager CPU, Triton), and as one operator.

```python
from router_rl.routing import load_router
from router_rl.routing.kernels import Gate

gate = Gate.of(load_router("router/"), dispatch=True)
routed = gate(hidden)  # .weights [T, k], .experts [T, k], .dispatch.counts [E], .dispatch.order [T * k]
```
"""

from .gate import Gate
from .kernel_rule import Dispatch, GateRule, Routed
from .mixing import mix
from .operator import decompositions, route
from .slot_blocks import SlotBlocks, in_blocks
from .torch_path import gather, scatter_back

__all__ = [
    "Dispatch",
    "Gate",
    "GateRule",
    "Routed",
    "SlotBlocks",
    "decompositions",
    "gather",
    "in_blocks",
    "mix",
    "route",
    "scatter_back",
]
