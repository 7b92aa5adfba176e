"""Benchmark of gates on a CPU, `train-router bench router`."""

from .gate_benchmark import FULL, QUICK, GatePlan, bench_gates
from .gate_table import gate_tables, gates_view

__all__ = ["FULL", "QUICK", "GatePlan", "bench_gates", "gate_tables", "gates_view"]
