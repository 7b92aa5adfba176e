"""Token-level routing inside a mixture of frozen experts, scored by the language-model loss or by answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from envs.token_moe import TokenMoEConfig, TokenMoECore
from experts import InputError
from experts.moe.sequences import Sequences
from experts.moe.token_pool import TokenPool
from experts.table.splitting import SPLITS

from ...routing import Selection
from ..data_digest import digest_of
from ..measure import Measurement
from ..objective import Objective
from ..options import options_as_json, with_changes
from ..problem import Case, FigureData, Problem, ProblemCard
from .layer_routers import LayerRouters
from .opened_pool import open_pool, scorer_digest
from .token_answers import answer
from .token_measurement import Choose, measure
from .token_moe_options import TokenMoEOptions
from .token_selection import check_selection, experts_per_token, selection_of, selections_of, tree_of

__all__ = ["LayerPolicy", "TokenMoEOptions", "TokenMoEProblem"]

_LABELS = {1: "one expert per token", 2: "two experts per token"}


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerPolicy:
    """A policy that routes tokens layer by layer, or along paths whose losses are already measured.

    Attributes:
        choose: maps layer and gate inputs to experts and weights.
        known: maps a split to the loss of every token [S, T], if no model has to run.
        routers: linear routers without bias, if there are any to export.
    """

    choose: Choose | None = None
    known: Callable[[str], np.ndarray] | None = None
    routers: LayerRouters | None = None

    @property
    def module(self) -> LayerRouters | None:
        """The routers to export, if there are any."""
        return self.routers


class TokenMoEProblem(Problem):
    """Select the expert, or the two experts, of each token at each layer.

    Utility is minus the loss of the language model, in nats per token, one value per sequence. With prompts
    it is the score of the generated answer, with greedy routes and tokens: 1 if it is right, else 0.

    Args:
        table: must be None: the outcomes come from running the experts.
        objective: must be None: the loss has no weights.
        options: experts, text and training; the defaults if None.
        changes: fields of `TokenMoEOptions` to change.

    Attributes:
        pool: frozen experts and text.
        texts: names of the texts.
        tree: of hierarchical selection; None for the best experts.

    Raises:
        InputError: an option is missing or out of range, or the models and texts do not fit each other.
    """

    name: ClassVar[str] = "token_moe"
    environment: ClassVar[str] = "RouterRL/TokenMoE-v0"
    about: ClassVar[str] = "choose the expert of each token at each layer of a mixture"
    options_type: ClassVar[type] = TokenMoEOptions
    observes: ClassVar[tuple[str, ...]] = ("hidden states",)
    always: ClassVar[tuple[str, ...]] = ("dense", "average", "best_single", "random", "oracle")
    objective_fields: ClassVar[tuple[str, ...]] = ()
    needs_table: ClassVar[bool] = False

    def __init__(
        self,
        table: None = None,
        objective: Objective | None = None,
        *,
        options: TokenMoEOptions | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        if table is not None:
            fix = "leave it out, and give problem.base, problem.experts and problem.texts"
            raise InputError("table", table, "token_moe routes text, not the rows of a table", fix)
        if objective is not None:
            raise InputError("objective", objective, "token_moe has no weights", "leave it out")
        self.table = None
        self.options: TokenMoEOptions = with_changes(options or TokenMoEOptions(), changes)
        pool, self.texts = open_pool(self.options)
        self.pool = with_tuning_part(pool)
        check_selection(self.options, pool)
        self.tree = tree_of(self.options, pool)
        most = self.options.select == "adaptive_k"
        self.cases = tuple(_case(count, most=most) for count in experts_per_token(self.options, self.pool))

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts."""
        return tuple(self.pool.tail.names)

    @property
    def experts_per_token(self) -> int:
        """Experts per token in the only case."""
        return int(self.case.values["experts_per_token"])

    @property
    def selection(self) -> Selection:
        """Selection rule of the only case, without the selection biases that layers of a model may have."""
        return selection_of(self.options, self.pool, self.experts_per_token)

    @property
    def selections(self) -> tuple[Selection, ...]:
        """Selection rule of each layer: the best expert, or the best ones weighted by their scores."""
        return selections_of(self.selection, self.pool)

    @property
    def labelled(self) -> bool:
        """Whether every text, or every prompt's task, has an expert of its name."""
        return set(self.texts) <= set(self.pool.domains)

    @property
    def included(self) -> tuple[str, ...]:
        """Names of methods that every comparison includes."""
        if self.pool.problems:
            first = "best_single" if self.pool.gates is None else "own_gates"
            return (first, "random", "label") if self.labelled else (first, "random")
        if self.pool.gates is not None:
            return ("own_gates", "random", "uniform")
        return (*self.always, "label") if self.labelled else self.always

    def digest(self) -> str:
        """Return a digest of the text, every expert's losses on it, and the options."""
        parts: list[Any] = [list(self.pool.tail.names), list(self.texts)]
        for name in SPLITS:
            part = self.pool.parts[name]
            parts += [
                np.asarray(each) for each in (part.tokens, part.domain, part.dense_loss, part.path_loss)
            ]
        options = options_as_json(self.options)
        for name in ("pool", "model", "base", "experts", "texts", "keep", "offload", "experts_per_token"):
            options.pop(name)  # the digest has their content, the case the last
        if options["select"] == "topk":  # digests from before there were trees stay as they are
            del options["select"], options["tree"], options["expert_price"]
        else:
            options["tree"] = self.tree
        if options["dtype"] == "float32":  # digests from before this option stay as they are
            del options["dtype"]
        if options.pop("prompts") is None:  # digests from before there were prompts stay as they are
            del options["scorer"], options["answer_tokens"]
        elif self.pool.problems is not None:
            parts += [np.asarray(self.pool.parts[name].prompt) for name in SPLITS]
            options["answer_tokens"] = self.pool.problems.answer
            options["scorer"] = scorer_digest(self.options.scorer)
        return digest_of(*parts, options)

    def core(self, split: str, case: Case, *, lanes: int, seed: int) -> TokenMoECore:
        """Return the environment on the sequences of a split; an episode is one forward pass."""
        return TokenMoECore(self.pool.tail, self.pool.parts[split], self.config(case), lanes, seed)

    def config(self, case: Case) -> TokenMoEConfig:
        """Return the reward and action of the environment."""
        adaptive = self.options.select == "adaptive_k"
        return TokenMoEConfig(
            k=int(case.values["experts_per_token"]),
            choose="some" if adaptive else "experts",
            compute_weight=self.options.expert_price,
        )

    def evaluate(
        self, policy: LayerPolicy | LayerRouters, split: str, case: Case | None = None, *, seed: int = 0
    ) -> Measurement:
        """Evaluate a policy: minus the mean loss of each sequence in nats per token, or its right answers.

        With adaptive_k, the price of the experts beyond the first is subtracted.

        Args:
            policy: a policy, or the routers of all layers.
            split: `train`, `validation`, `tuning` or `test`.
            case: not used: the policy defines the experts per token.
            seed: not used: the policy is greedy.
        """
        if isinstance(policy, LayerRouters):
            policy = LayerPolicy(choose=policy.choose, routers=policy)
        part = self.pool.parts[split]
        if self.pool.problems:
            return self._answered(policy, part)
        facts: dict[str, float] = {}
        share: np.ndarray | None = None
        more: np.ndarray | float = 0.0  # experts beyond the first
        if policy.known is not None:
            loss = policy.known(split).mean(axis=1)
        else:
            assert policy.choose is not None
            measured = measure(self.pool.tail, part, policy.choose)
            loss = measured.loss.mean(axis=1)
            facts = {"load_cv": measured.load_cv(), "experts_run": measured.compute}
            share, more = measured.sequence_shares(), measured.runs() - 1.0
        pure = ~part.mixed
        by_text = {
            f"loss/{name}": float(loss[pure & (part.domain[:, 0] == d)].mean())
            for d, name in enumerate(self.texts)
            if (pure & (part.domain[:, 0] == d)).any()
        }
        if part.mixed.any():
            by_text["loss/mixed"] = float(loss[part.mixed].mean())
        perplexity = {"perplexity": float(np.exp(loss.mean())), **_gain_kept(self.pool, part, loss)}
        utility = (-loss - self.options.expert_price * more).astype(np.float32)
        return Measurement(utility=utility, parts={}, facts={**perplexity, **facts, **by_text}, share=share)

    def _answered(self, policy: LayerPolicy, part: Sequences) -> Measurement:
        """Right answers of each sequence; the loss of the whole text is a fact."""
        assert policy.choose is not None, "a policy of known losses has no answers"
        answered = answer(self.pool, part, policy.choose)
        by_task = {
            f"right/{name}": float(answered.right[part.domain[:, 0] == d].mean())
            for d, name in enumerate(self.texts)
            if (part.domain[:, 0] == d).any()
        }
        loss = float(measure(self.pool.tail, part, policy.choose).loss.mean())
        facts = {"loss": loss, "load_cv": answered.load_cv, "experts_run": float(answered.compute.mean())}
        return Measurement(utility=answered.right, parts={}, facts={**facts, **by_task}, share=answered.share)

    def figures(self, policy: LayerPolicy, case: Case) -> Sequence[FigureData]:
        """Return the share of tokens by layer, text and expert."""
        if policy.routers is None:
            return ()
        part = self.pool.parts["test"]
        selected = measure(self.pool.tail, part, policy.routers.choose).experts  # [L, S, T, k]
        texts = [d for d in range(len(self.texts)) if (part.domain == d).any()]  # an expert may have none
        shares = [
            [
                [float((layer[part.domain == d] == e).mean()) for e in range(self.pool.tail.experts)]
                for d in texts
            ]
            for layer in selected
        ]
        below = self.pool.base.below
        return (
            FigureData(
                form="layer_shares",
                title="Share of the tokens by layer, text and expert",
                note="Share of a text's tokens that each expert takes in each layer.",
                data={
                    "experts": list(self.pool.tail.names),
                    "texts": [self.texts[d] for d in texts],
                    "layers": [below + layer for layer in range(len(shares))],
                    "shares": shares,
                },
            ),
        )

    def _utility(self) -> str:
        if self.pool.problems:
            return "right answers"
        price = " and the price of further experts" if self.options.expert_price else ""
        return f"minus the loss{price} in nats per token"

    def describe(self) -> ProblemCard:
        """Return the description for reports and `list`."""
        return ProblemCard(
            name=self.name,
            environment=self.environment,
            about=self.about,
            source=f"{self.pool.name}: {', '.join(self.texts)}",
            experts=self.experts,
            options=options_as_json(self.options),
            facts={
                "sequences": {name: len(self.pool.parts[name]) for name in SPLITS},
                "tokens": {name: int(self.pool.parts[name].dense_loss.size) for name in SPLITS},
                "layers": self.pool.tail.depth,
            },
            utility=self._utility(),
        )


def with_tuning_part(pool: TokenPool) -> TokenPool:
    """Return the pool with every second validation sequence in the part `tuning`.

    Args:
        pool: with validation sequences, at least two.

    Raises:
        InputError: there are fewer.
    """
    part = pool.parts["validation"]
    if len(part) < 2:
        reason = "is too few; half of them must select hyperparameters"
        raise InputError("problem.validation", len(part), reason, "use 2 or more")
    halves = [part.take(slice(start, None, 2)) for start in (0, 1)]
    return replace(pool, parts={**pool.parts, "validation": halves[0], "tuning": halves[1]})


def _gain_kept(pool: TokenPool, part: Sequences, loss: np.ndarray) -> dict[str, float]:
    """Return the share of the matching experts' gain over the base that a policy has, as `gain_kept`.

    Args:
        pool: with domains; without any, the result is empty.
        part: of its text; only sequences of one domain count.
        loss: [S] float32, of each sequence under the policy, nats per token.
    """
    rows = np.flatnonzero(~part.mixed & (part.domain[:, 0] < len(pool.domains)))
    if not rows.size:
        return {}
    base, own = part.dense_loss[rows].mean(), loss[rows].mean()
    matching = part.path_loss[rows, part.domain[rows, 0]].mean()
    return {"gain_kept": float((base - own) / (base - matching))} if base > matching else {}


def _case(count: int, *, most: bool) -> Case:
    """The case of a number of experts per token, which is the largest one if `most`."""
    label = _LABELS.get(count, f"{count} experts per token")
    label = f"at most {label}" if most else label
    return Case(label=label, values={"experts_per_token": count})
