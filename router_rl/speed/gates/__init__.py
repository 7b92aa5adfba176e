"""How fast a gate routes on a CPU: `train_router.py bench router`."""

from .bench import FULL, QUICK, GatePlan, bench_gates
from .view import gates_markdown, gates_view

__all__ = ["FULL", "QUICK", "GatePlan", "bench_gates", "gates_markdown", "gates_view"]
