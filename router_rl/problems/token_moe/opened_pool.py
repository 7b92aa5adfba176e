"""The pool of a token-level problem: the packaged one, a user's donors, or an existing mixture."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import fields
from pathlib import Path

import torch

from experts import InputError
from experts.llm import read_questions, scorer_named
from experts.moe.answer_pool import answer_pool
from experts.moe.answer_tasks import TASKS
from experts.moe.donor_pool import donor_pool
from experts.moe.mixture_pool import mixture_pool
from experts.moe.prompt_parts import PromptTexts
from experts.moe.text_parts import TextSizes
from experts.moe.tiny import tiny_pool
from experts.moe.token_pool import TokenPool

from ...routing.selection.hierarchical import Tree
from ..selection_rules import named_tree
from .token_moe_options import TokenMoEOptions

__all__ = ["check_selection", "experts_per_token", "open_pool", "scorer_digest", "tree_of"]

_TINY_DOMAINS = 6
_OF_PROMPTS = ("scorer", "answer_tokens")
_OF_A_MODEL = ("base", "experts", "experts_per_token", "score")


def open_pool(options: TokenMoEOptions) -> tuple[TokenPool, tuple[str, ...]]:
    """Open the models and texts that the options name.

    Args:
        options: of the problem.

    Returns:
        the pool, and the names of its texts.

    Raises:
        InputError: an option is missing, two do not go together, or models and texts do not fit.
    """
    _check_text(options)
    _check_weights(options)
    names = ("length", "train", "validation", "test", "mixed")
    sizes = TextSizes(**{name: getattr(options, name) for name in names})
    keep = None if options.keep is None else Path(options.keep)
    if options.pool != "tiny":
        _check_packaged(options)
        counts = (-(-getattr(options, name) // len(TASKS)) for name in ("train", "validation", "test"))
        pool = answer_pool(*counts)
        return pool, pool.domains
    if options.model is not None:
        _check_model(options)
        return mixture_pool(options.model, _text(options), sizes, keep=keep)
    given = {"base": options.base, "experts": options.experts, "texts": options.texts or options.prompts}
    missing = [name for name, value in given.items() if not value]
    if missing and len(missing) < len(given):
        name = missing[0]
        fix = "give base, experts, and texts or prompts; or none of them"
        raise InputError(f"problem.{name}", given[name], "is missing", fix)
    if options.base is None:
        pool = tiny_pool(*sizes.of("train", _TINY_DOMAINS), sizes.length)
        return pool, pool.domains
    folders = options.experts.split(",") if isinstance(options.experts, str) else options.experts
    dtype = getattr(torch, options.dtype)
    given_text, offload = _text(options), options.offload
    return donor_pool(options.base, folders, given_text, sizes, dtype=dtype, keep=keep, offload=offload)


def experts_per_token(options: TokenMoEOptions, pool: TokenPool) -> tuple[int, ...]:
    """Return the experts per token of each case.

    Args:
        options: of the problem.
        pool: the opened pool.

    Raises:
        InputError: the pool has too few experts, or the score has no effect.
    """
    if pool.gates is not None:
        return (pool.gates.k,)
    counts = options.experts_per_token
    counts = (counts,) if isinstance(counts, int) else tuple(counts)
    for count in counts:
        if count not in (1, 2) or count > pool.tail.experts:
            reason = f"{pool.tail.experts} experts can run 1 or 2 at a time"
            raise InputError("problem.experts_per_token", count, reason, "use 1, 2 or [1, 2]")
    if options.score not in ("softmax", "sigmoid"):
        raise InputError("problem.score", options.score, "is unknown", "use softmax or sigmoid")
    if options.score == "sigmoid" and max(counts) == 1:
        reason = "has no effect with one expert per token, whose weight is 1"
        raise InputError("problem.score", options.score, reason, "leave it out: both forms take such routers")
    return counts


def check_selection(options: TokenMoEOptions, pool: TokenPool) -> None:
    """Check that the options of the selection rule go together.

    Args:
        options: of the problem.
        pool: the opened pool.

    Raises:
        InputError: they do not.
    """
    count = {"hierarchical": 1, "adaptive_k": 2}.get(options.select)
    for name, rule in (("tree", "hierarchical"), ("expert_price", "adaptive_k")):
        value = getattr(options, name)
        if value and options.select != rule:
            problem, fix = f"select {options.select} does not use it", f"leave it out, or select {rule}"
            raise InputError(f"problem.{name}", value, problem, fix)
    if count is None:
        return
    if pool.gates is not None:
        reason = "is for experts of problem.base; problem.model has selection rules of its own"
        raise InputError("problem.select", options.select, reason, "leave it out")
    if options.experts_per_token not in (count, (count,)):
        reason = f"{options.select} selects {'one expert' if count == 1 else 'at most two experts'} per token"
        fix = f"use {count}, or select topk"
        raise InputError("problem.experts_per_token", options.experts_per_token, reason, fix)
    if options.select == "adaptive_k" and (options.score != "softmax" or pool.problems is not None):
        reason = "is for text, and experts that are weighted by softmax"
        raise InputError("problem.select", options.select, reason, "select topk")


def tree_of(options: TokenMoEOptions, pool: TokenPool) -> Tree | None:
    """Return the tree of hierarchical selection, or None for the best experts.

    Args:
        options: of the problem.
        pool: the opened pool.

    Raises:
        InputError: there is no tree, or it does not fit the experts.
    """
    if options.select != "hierarchical":
        return None
    if options.tree is not None:
        return named_tree(options.tree, pool.tail.names)
    if all(isinstance(child, int) for child in pool.tree[1]):
        fix = "write {branch: [expert, ...], ...}"
        raise InputError("problem.tree", None, "is missing: these experts have no tree", fix)
    tree: Tree = pool.tree
    return tree


def scorer_digest(name: str) -> str:
    """Return the name of a scorer, with a digest of its file if it is a user's function.

    Args:
        name: as for `scorer_named`, which has imported it.
    """
    path = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    if ":" not in name or path is None:
        return name
    return f"{name} {hashlib.sha256(Path(path).read_bytes()).hexdigest()}"


def _check_packaged(options: TokenMoEOptions) -> None:
    """Raise InputError for models beside a packaged pool."""
    for name in ("model", "base", "experts", "texts", "prompts", "keep"):
        value = getattr(options, name)
        if value:
            problem = "has no effect on the packaged pool of problem.pool"
            raise InputError(f"problem.{name}", value, problem, "leave one of them out")


def _check_weights(options: TokenMoEOptions) -> None:
    """Raise InputError for a precision or a place that the weights of the models cannot have."""
    for name, default in (("dtype", "float32"), ("offload", False)):
        value = getattr(options, name)
        if value != default and options.base is None:
            problem = "is for problem.base and problem.experts; other models run in float32 and in memory"
            raise InputError(f"problem.{name}", value, problem, "leave it out")
    if options.offload and options.keep is None:
        problem = "needs a folder for the weights"
        raise InputError("problem.offload", True, problem, "give problem.keep, a folder")


def _check_model(options: TokenMoEOptions) -> None:
    """Raise InputError for an option that a model brings itself, or for missing texts."""
    for field in fields(TokenMoEOptions):
        value = getattr(options, field.name)
        if field.name in _OF_A_MODEL and value != field.default:
            problem = "is the model's own where problem.model is given"
            raise InputError(f"problem.{field.name}", value, problem, "leave it out")
    if options.texts is None and options.prompts is None:
        fix = "give a folder of NAME.jsonl files, or problem.prompts, a file of prompts"
        raise InputError("problem.texts", None, "is missing", fix)


def _check_text(options: TokenMoEOptions) -> None:
    """Raise InputError for two kinds of text, or for an option of prompts without prompts."""
    if options.prompts is not None and options.texts is not None:
        problem = "cannot be used beside problem.prompts"
        raise InputError("problem.texts", options.texts, problem, "leave one of them out")
    for field in fields(TokenMoEOptions):
        value = getattr(options, field.name)
        if field.name in _OF_PROMPTS and value != field.default and options.prompts is None:
            problem = "has no effect without problem.prompts"
            raise InputError(f"problem.{field.name}", value, problem, "leave it out")


def _text(options: TokenMoEOptions) -> str | PromptTexts:
    """The folder of texts, or the prompts with their scorer."""
    if options.prompts is None:
        assert options.texts is not None
        return options.texts
    asked = read_questions(options.prompts)
    return PromptTexts(
        name=options.prompts,
        prompt=list(asked.prompt),
        reference=list(asked.reference),
        score=scorer_named(options.scorer),
        group=None if asked.group is None else list(asked.group),
        split=None if asked.split is None else list(asked.split),
        answer_tokens=options.answer_tokens,
    )
