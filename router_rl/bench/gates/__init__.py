"""How fast a gate routes on a CPU: `train_router.py bench router`."""

from .gate_benchmark import FULL, QUICK, GatePlan, bench_gates
from .gate_table import gates_markdown, gates_view

__all__ = ["FULL", "QUICK", "GatePlan", "bench_gates", "gates_markdown", "gates_view"]
