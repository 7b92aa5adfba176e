"""Types of the fields of `results.json` (schema 2) that reports read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, get_type_hints

from experts.io.json_types import check_type

__all__ = ["check_results"]

_Pair = tuple[float, float]


class _Card(TypedDict):
    name: str


class _Problem(_Card, total=False):
    environment: str
    about: str
    source: str
    experts: list[str]
    options: dict[str, Any]
    facts: dict[str, Any]
    notes: list[str]
    utility: str


class _Case(TypedDict):
    label: str
    values: dict[str, float]


class _Estimate(TypedDict):
    value: float | None
    ci95: _Pair | None


class _Difference(TypedDict):
    method: str
    mean: float
    ci95: _Pair


class _Alternative(TypedDict):
    method: str


class _Recommended(TypedDict):
    sentence: str


class _SavedRouter(TypedDict):
    folder: str
    seed: int
    test: dict[str, float]


class _Recommendation(_Recommended, total=False):
    expected_regret: float | None
    rows_to_settle: int | None
    alternative: _Alternative | None
    router: _SavedRouter | None
    expert: str | None
    weights: dict[str, float]


class _Collapse(TypedDict, total=False):
    one_expert: bool
    below_best_single: bool


class _Entry(TypedDict):
    method: str
    family: str
    case: str


class _Measured(_Entry):
    utility: float
    seed: int
    split: str
    fit_seconds: float | None


class _Row(_Measured, total=False):
    collapsed: bool
    collapse: _Collapse | None
    shares: list[float] | None
    hyperparameters: dict[str, Any] | None
    router: str | None
    equals_start: str | None


class _Means(_Entry):
    utility_mean: float
    utility_ci95: _Pair


class _Summary(_Means, total=False):
    full_information: bool
    extra_inputs: list[str]
    utility_iqm: float | None
    utility_iqm_ci95: _Pair | None
    validation_utility_mean: float | None
    fit_seconds_mean: float | None
    equals_start: str | None
    collapsed: int
    below_best_single: int
    paired_difference_to_rival: _Difference | None
    paired_difference_to_best_rival: _Difference | None
    paired_difference_to_best_gate: _Difference | None
    same_as: str | None
    budget: float
    met: bool


class _Inputs(TypedDict):
    shared: list[str]
    methods: dict[str, list[str]]


class _Splits(TypedDict):
    test: int


class _Queries(TypedDict):
    queries: _Splits
    best_single_quality: float


class _TableFacts(_Queries, total=False):
    features: int
    cost_unit: str
    compute_unit: float
    expert_quality: list[float]
    expert_cost: list[float]
    oracle_quality: float | None
    groups: list[str] | None


class _Frontier(TypedDict, total=False):
    aiq: float | None
    aiq_ci95: _Pair | None
    points: int | None
    aiq_difference: _Estimate | None
    aiq_rival: str | None
    aiq_above_zero: _Estimate | None
    cost_saved: _Estimate | None
    cost_saved_most_expensive: _Estimate | None
    quality_gained: _Estimate | None
    router_arena: _Estimate | None
    apgr: float | None
    apgr_ci95: _Pair | None
    cpt50: _Estimate | None
    cpt80: _Estimate | None


class _Single(TypedDict):
    expert: str
    compute: float
    quality: float


class _Shares(TypedDict):
    case: str
    groups: list[str]
    methods: dict[str, list[list[float | None]]]


class _GroupShares(_Shares, total=False):
    clustered: bool


class _QueryRow(TypedDict):
    id: str
    prompt: str | None
    group: str | None
    experts: list[int]
    quality: float
    cost: float
    each_quality: list[float]
    each_cost: list[float]


class _SingleQueries(TypedDict):
    method: str
    case: str
    seed: int
    total: int
    rows: list[_QueryRow]


class _Figure(TypedDict):
    method: str
    form: str
    title: str
    note: str
    data: dict[str, Any]


class _Results(TypedDict):
    schema_version: Literal[2]
    problem: _Problem
    cases: list[_Case]
    seeds: list[int]
    n_trials: int | None
    rows: list[_Row]
    summary: list[_Summary]
    verdict: list[str]
    warnings: list[str]


class _Complete(_Results, total=False):
    digest: str | None
    test_rows: str | None
    created: str | None
    command: str | None
    versions: dict[str, str]
    commit: str | None
    seconds: float | None
    notes: list[str]
    recommendation: _Recommendation | None
    inputs: _Inputs
    table_facts: _TableFacts | None
    frontier: dict[str, _Frontier]
    zero_frontier: list[_Pair]
    singles: list[_Single]
    shares_by_group: _GroupShares | None
    queries: _SingleQueries | None
    rl_verdicts: list[dict[str, Any]]
    figures: list[_Figure]


def check_results(results: Mapping[str, Any]) -> None:
    """Check the types of the fields of schema 2.

    Args:
        results: the content of `results.json`.

    Raises:
        ValueError: a field is missing, of another type, or names a case or an expert that is not there.
    """
    check_type(results, _Complete, "")
    labels = {case["label"] for case in results["cases"]}
    numbers = {name for case in results["cases"] for name in case["values"]}
    for name, kind in (("rows", _Row), ("summary", _Summary)):
        typed = get_type_hints(kind)
        for index, row in enumerate(results[name]):
            if row["case"] not in labels:
                raise ValueError(f"{name}[{index}].case is {row['case']!r}, which is no case")
            for field, value in row.items():
                if field in numbers:
                    check_type(value, float, f"{name}[{index}].{field}")
                elif field not in typed:
                    number: Any = float | None if field.endswith("_mean") else str | float | bool | None
                    hint = _Pair | None if field.endswith("_ci95") else number
                    check_type(value, hint, f"{name}[{index}].{field}")
    facts, experts = results.get("table_facts") or {}, results["problem"].get("experts", [])
    for name in ("expert_quality", "expert_cost"):
        if len(facts.get(name, experts)) != len(experts):
            raise ValueError(f"table_facts.{name} is not of {len(experts)} experts")
    for index, row in enumerate((results.get("queries") or {}).get("rows", [])):
        counts = {len(row["each_quality"]), len(row["each_cost"])}
        if counts != {len(experts)} or not set(row["experts"]) <= set(range(len(experts))):
            raise ValueError(f"queries.rows[{index}] is not of {len(experts)} experts")
