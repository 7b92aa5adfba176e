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

from .token_moe_options import TokenMoEOptions

__all__ = ["open_pool", "scorer_digest"]

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
