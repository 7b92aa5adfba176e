"""Queueing: every request is sent to one expert as it arrives, and waits there for a replica."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, ClassVar

from envs import QueueingConfig, QueueingCore, QueueUnits, build_queueing
from envs.request_lengths import request_lengths
from envs.traces import ARRIVALS, Arrivals, open_arrivals, split_arrivals
from experts import DecisionLog, InputError, OutcomeTable
from experts.table.splitting import SPLITS

from ...routing import QueueConstants, Router, ServerConstants
from ...routing.policies.network_policy import NetworkPolicy
from ..data_digest import digest_of, table_digest
from ..log_table import estimated_table, logged_text
from ..measure import Measurement
from ..objective import Objective
from ..objective_fields import only_objective
from ..options import options_as_json, with_changes
from ..problem import Case, FigureData, Policy, Problem, ProblemCard
from ..prompt_features import with_features
from ..routing.problem import RoutingProblem
from ..table_facts import table_facts
from ..tuning_rows import with_tuning_rows
from .logged_latency import latency_notes, logged_latencies, table_latencies
from .logged_traffic import logged_arrivals, logged_outages, traffic_notes
from .measured_constants import measured_constants
from .queue_measurement import measure_queues
from .queueing_options import QueueingOptions, errors_name_options
from .timeline_data import queue_timeline

__all__ = ["QueueingProblem"]

_SEEDS = {"validation": 700_000, "tuning": 750_000, "test": 800_000}


class QueueingProblem(Problem):
    """To which expert's queue each request is sent, at one or more loads.

    Args:
        table: an outcome table with a split, and with features or prompts to make features of. Service times
            are its latencies, else output tokens, else costs.
        objective: the compute weight; the weights of lateness, misses and overspending are options.
        options: the other options; the defaults if None.
        trace: arrivals in place of `options.arrivals`.
        changes: fields of `QueueingOptions`, in place of those of `options`.

    Attributes:
        objective: see Args.
        units: of compute, deadlines and load, measured on the training rows.
        arrivals: `poisson`, `bursts` or a trace; each split has its own part.
        test_arrivals: those of the test split.
        lengths: tokens of the training requests; None for servers of queues.
        text: the pipeline that makes features of prompts; None where the table has features.
        out_of_fold: which of the features are cross-fitted predictions of the training rows.

    Raises:
        InputError: the table lacks a split, service times or features, a trace cannot be read, or an option
            or the objective does not fit.
    """

    name: ClassVar[str] = "queueing"
    environment: ClassVar[str] = "RouterRL/Queueing-v0"
    about: ClassVar[str] = "send each request to an expert's queue"
    options_type: ClassVar[type] = QueueingOptions
    observes: ClassVar[tuple[str, ...]] = ("queues",)
    always: ClassVar[tuple[str, ...]] = ("random", "best_single")
    rival: ClassVar[str | None] = "index_rule_late"

    table: OutcomeTable

    def __init__(
        self,
        table: OutcomeTable,
        objective: Objective | Sequence[Objective] | None = None,
        *,
        options: QueueingOptions | None = None,
        trace: Arrivals | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(table)
        self.options: QueueingOptions = with_changes(options or QueueingOptions(), changes)
        self.objective = only_objective(QueueingProblem, Objective() if objective is None else objective)
        self.cases = tuple(Case(label=f"load {load:g}", values={"load": load}) for load in self.options.loads)
        featured = with_features(with_tuning_rows(table), self.options.features)
        self.table = featured.table  # pyright: ignore[reportIncompatibleVariableOverride] (never None)
        self.text, self.out_of_fold = featured.text, featured.out_of_fold
        rows = {split: self.table.part(split) for split in SPLITS}
        config = self.options.config(self.options.loads[0], self.objective.compute_weight)
        with errors_name_options():
            config.replicas_of(len(self.experts))
            self.arrivals = _read(self.options.arrivals) if trace is None else trace
            # Lengths of prompts and answers of the training part; None for servers of queues.
            self.lengths = (
                None
                if config.servers == "queue"
                else request_lengths(rows["train"], split_arrivals(self.arrivals, "train"))
            )
            self.units = QueueUnits.of(rows["train"], config, self.lengths)
        with errors_name_options("test_arrivals"):
            other = self.options.test_arrivals
            self.test_arrivals = self.arrivals if other is None else _read(other)

    @classmethod
    def of_log(
        cls,
        log: DecisionLog,
        objective: Objective | Sequence[Objective] | None = None,
        *,
        table: OutcomeTable | None = None,
        options: QueueingOptions | None = None,
    ) -> QueueingProblem:
        """Return the problem of a decision log: its arrivals, its latencies as service times, its outages.

        Arrivals and outages that the options name are used in place of the log's.

        Args:
            log: with times and latencies; without a table also with propensities, scores and features.
            objective: the compute weight.
            table: qualities, costs and features of the experts; None: they are estimated from the log.
            options: the other options; the defaults if None.

        Raises:
            InputError: the log lacks what is needed, or has other experts than the table.
        """
        options = options or QueueingOptions()
        if table is None:
            queries = log.scored()
            rows, seconds = estimated_table(queries), logged_latencies(log, queries)
        else:
            if table.experts != log.experts:
                fix = f"give the table of {', '.join(log.experts)}"
                raise InputError("log", list(log.experts), "has other experts than the table", fix)
            rows, seconds = table, table_latencies(log, table)
        rows = rows.with_latencies(seconds)
        arrivals, outages = logged_arrivals(log), logged_outages(log)
        config = options.config(options.loads[0], 0.0)
        units = QueueUnits.of(rows.part("train"), config)
        if not options.mean_up:
            options = outages.simulated(options, units.mean_service)
        notes = (*latency_notes(log, units), *traffic_notes(arrivals, outages, units, config))
        trace = arrivals if options.arrivals == QueueingOptions().arrivals else None
        made = cls(rows.with_latencies(seconds, notes), objective, options=options, trace=trace)
        made.text = logged_text(log) if table is None else made.text
        return made

    @property
    def config(self) -> QueueingConfig:
        """The environment's options in the only case."""
        return self._config(self.case)

    @property
    def scale(self) -> float:
        """The unit of compute: the most expensive expert's mean cost on the training rows."""
        return self.units.compute

    def routing(self) -> RoutingProblem:
        """Return the routing problem on the same table, without queues."""
        return self.cached(
            "routing", lambda: RoutingProblem(self.table, self.objective, out_of_fold=self.out_of_fold)
        )

    def constants(self) -> QueueConstants | ServerConstants:
        """Return the constants of the experts' queues or servers in the only case, for policies."""
        return measured_constants(self.config, self.units, self.lengths)

    def finish(self, policy: Any) -> Any:
        """Return a fitted policy, complete for saving: a network policy gets the constants of its queues.

        Args:
            policy: a router, or a policy whose `module` is exported, of the only case.
        """
        module = getattr(policy, "module", None)
        if isinstance(module, NetworkPolicy) and len(self.cases) == 1:
            module.constants = self.constants()
        return super().finish(policy)

    def digest(self) -> str:
        """Return a digest of the outcomes, the traces, the compute weight and the options."""
        traces = (self.arrivals, self.test_arrivals)
        names = [each if isinstance(each, str) else "trace" for each in traces]
        options = options_as_json(self.options) | {"arrivals": names[0], "test_arrivals": names[1]}
        times = [None if isinstance(each, str) else each.arrival_s for each in traces]
        if self.lengths is not None:
            times += [None if isinstance(each, str) else each.tokens for each in traces]
        return digest_of(table_digest(self.table), options, self.objective.compute_weight, *times)

    def core(self, split: str, case: Case, *, lanes: int, seed: int, group: int = 1) -> QueueingCore:
        """Return the environment at a case's load, on the rows and the arrivals of a split.

        Args:
            split: `train`, `validation`, `tuning` or `test`.
            case: its load.
            lanes: B.
            seed: lane i uses the random stream `seed + i // group`.
            group: consecutive lanes that get the same requests, arrivals and outages.
        """
        config = self._config(case)
        return build_queueing(
            self.table,
            lanes,
            split=split,
            arrivals=self.test_arrivals if split == "test" else self.arrivals,
            units=self.units,
            seed=seed,
            group=group,
            **{each.name: getattr(config, each.name) for each in fields(config)},
        )

    def evaluation_core(self, split: str, case: Case) -> QueueingCore:
        """Return the environment at the start of the episodes that `evaluate` runs.

        Args:
            split: `validation`, `tuning` or `test`.
            case: its load.

        Raises:
            InputError: the split has no evaluation episodes.
        """
        if split not in _SEEDS:
            raise InputError("split", split, "has no evaluation episodes", "use validation, tuning or test")
        return self.core(split, case, lanes=self.options.episodes, seed=_SEEDS[split])

    def evaluate(
        self, policy: Policy | Router, split: str, case: Case | None = None, *, seed: int = 0
    ) -> Measurement:
        """Evaluate a policy on the split's episodes; values are means over the requests of an episode.

        Args:
            policy: observations [B, O] float32 to experts [B] int64. A router reads the features, and the
                rest where it has a state.
            split: `validation`, `tuning` or `test`.
            case: the case; the only one if None.
            seed: not used: a random policy has its own seed.

        Returns:
            utility [B] float64 of B episodes; the parts quality, compute, missed (fraction of requests),
            lateness (deadlines) and, under a budget, overspend; the response time's percentiles `p50_s`,
            `p95_s` and `p99_s` in seconds, and `first_p50_s` and so on, of the time to the first token of
            model servers; each expert's share of the requests.

        Raises:
            InputError: the split has no evaluation episodes.
            RouterError: a router's experts or feature size are not the table's.
        """
        if isinstance(policy, Router):
            assert self.table.features is not None
            policy.check_pool(self.experts, self.table.features.shape[1])
        case = case or self.case

        def measured() -> Measurement:
            core = self.evaluation_core(split, case)
            return measure_queues(core, policy).summary(budget=self.options.budget is not None)

        if not isinstance(policy, Router) or policy.stochastic:
            return measured()
        # Rules without a seed and policies that kept their start are equal routers.
        return self.cached(("measured", split, case.values["load"], _content(policy)), measured)

    def figures(self, policy: Policy | Router, case: Case) -> Sequence[FigureData]:
        """Return the queues over the first requests of one test episode."""
        core = self.core("test", case, lanes=1, seed=_SEEDS["test"])
        return (queue_timeline(core, policy, self.experts, case),)

    def describe(self) -> ProblemCard:
        """Return the description for reports and `list`."""
        return ProblemCard(
            name=self.name,
            environment=self.environment,
            about=self.about,
            source=self.table.source,
            experts=self.experts,
            options=options_as_json(self.options) | {"compute_weight": self.objective.compute_weight},
            facts=table_facts(self.table, self.scale) | {"mean_service_s": self.units.mean_service},
            notes=self.table.notes,
            utility="value x quality - compute_weight x compute - penalties (late, missed, over budget)",
        )

    def parity_rows(self) -> OutcomeTable:
        """Return the validation rows."""
        return self.table.part("validation")

    def _config(self, case: Case) -> QueueingConfig:
        return self.options.config(case.values["load"], self.objective.compute_weight)


def _content(router: Router) -> str:
    """Return a digest of all that a router's choices depend on."""
    weights = router.state_dict()
    return digest_of(router.spec(), list(weights), *[weights[name].cpu().numpy() for name in weights])


def _read(arrivals: str) -> Arrivals | str:
    """Return a trace, or the name of generated arrivals, which each split draws itself."""
    return arrivals if arrivals in ARRIVALS else open_arrivals(arrivals)
