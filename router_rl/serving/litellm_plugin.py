"""A plug-in for LiteLLM's proxy or router: an exported router decides, with the decision log of `serve`.

LiteLLM still does retries, cooldowns, budgets, keys and limits. The plug-in is a LiteLLM callback: the router
chooses among the healthy experts, and LiteLLM gets only the chosen expert's deployments. It explores with
exact propensities and logs every attempt. `promote`, `rollback`, `log export` and `train --log` use this log.
"""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sqlalchemy.exc import SQLAlchemyError

from experts import InputError
from experts.io.progress import say
from experts.llm.asking import failure_of
from experts.llm.endpoints import prices_of, read_models
from experts.llm.lite import lite
from experts.llm.spending import cost_of

from ..routing import RouterError
from .chat_request import AUTO, BadRequestError, ChatRequest, last_prompt, read_outcome
from .decider import Decider
from .deployments import follow, started_with
from .learner import Learner
from .live_routers import Live
from .loaded_router import LoadedRouter
from .log_row import LogRows, hash_key
from .log_store import LogStore
from .log_writer import LogWriter
from .serve_options import ServeOptions
from .upstream import tokens_of

__all__ = ["LiteLLMPlugin"]

lite()
from litellm.integrations.custom_logger import CustomLogger  # noqa: E402 (telemetry is off first)

_KEY = "router_rl_decision"  # in the metadata of LiteLLM's request
_CLOSE_S = 5.0  # maximum wait for the thread that reads the log
_MAX_OPEN = 10_000  # attempts that are remembered until they end


class LiteLLMPlugin(CustomLogger):
    """Decides for the model group `auto` of LiteLLM, and logs every attempt.

    Args:
        router: folder of a router of prompts.
        models: YAML list of the models, as for `serve`; only the prices are used.
        options: exploration, shadow, online learning, log and privacy, as for `serve`; other options are not
            used.

    Attributes:
        learner: the online learner; None without one.

    Raises:
        InputError: a file or the log cannot be used, the router reads queues, or the online learner cannot
            start from it.
    """

    def __init__(self, router: Path | str, models: Path | str, options: ServeOptions | None = None) -> None:
        super().__init__()
        self._options = options = options or ServeOptions()
        self._prices = dict(prices_of(read_models(models).endpoints).prices)
        loaded = LoadedRouter.of(router)
        shadow = None if options.shadow is None else LoadedRouter.of(options.shadow, "shadow")
        self._rows = LogRows(hash_key(options.hash_key_env), prompts=options.log_prompts)
        self.decider = Decider(
            Live(loaded, shadow=shadow),
            self._prices,
            explore=options.explore,
            temperature=options.explore_temperature,
            extra_usd=options.explore_extra_usd,
        )
        self.store = LogStore(options.log)
        live = started_with(self.store, loaded)
        self.decider.replace(Live(live.router, live.canary, live.fraction, shadow))
        self.learner = None if options.online is None else Learner(self.store, options)
        if self.learner is not None:
            self.learner.follow(live.router)
            self.decider.learner = self.learner
        self.writer = LogWriter(self.store.write, options.buffer)
        self._open: OrderedDict[str, _Attempt] = OrderedDict()  # by id of the decision
        self._closing = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="deployments", daemon=True)
        self._watching.start()
        proxy = sys.modules.get("litellm.proxy.proxy_server")
        if proxy is not None:
            _add_outcomes(proxy.app, self.store)

    async def async_filter_deployments(
        self,
        model: str,
        healthy_deployments: list[Any],
        messages: Any,
        request_kwargs: dict[str, Any] | None = None,
        parent_otel_span: Any = None,
    ) -> list[dict[str, Any]]:
        """Choose an expert among the healthy ones and return its deployments.

        Args:
            model: the model group; for groups other than `auto`, all deployments are returned.
            healthy_deployments: deployments of the group without those in cooldown.
            messages: messages of the request; if there is no user message, LiteLLM chooses.
            request_kwargs: the request; its `metadata` may have `group` and `session`.
            parent_otel_span: not used.
        """
        if model != AUTO or not healthy_deployments:
            return healthy_deployments
        began = time.perf_counter()
        request = {} if request_kwargs is None else request_kwargs
        metadata: dict[str, Any] = request.setdefault("metadata", {})
        healthy = {expert_of(each) for each in healthy_deployments}
        down = [name for name in self.decider.live.router.experts if name not in healthy]
        try:
            prompt = last_prompt(messages)
            decision = self.decider.decide(prompt, _text(metadata, "group"), down)
        except (BadRequestError, RouterError):
            return healthy_deployments
        chosen = [each for each in healthy_deployments if expert_of(each) == decision.expert]
        if not chosen:
            return healthy_deployments
        attempt = _Attempt(uuid.uuid4().hex, decision.expert, began)
        previous = _text(metadata, _KEY)
        metadata[_KEY] = attempt.id  # LiteLLM passes it to the other hooks, and to the next attempt
        self._open[attempt.id] = attempt
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        chat = ChatRequest(
            model=AUTO,
            prompt=prompt,
            messages=[],
            stream=request.get("stream") is True,
            session=_text(metadata, "session"),
        )
        row = self._rows.row(attempt.id, chat, decision.expert, decision, previous)
        await self.writer.insert({**row, "status": "started"})
        return chosen

    async def async_post_call_failure_deployment_hook(
        self,
        request_data: Mapping[str, Any],
        exception: Exception,
        call_type: Any,
        fallback_depth: Any = None,
    ) -> None:
        """Log that an attempt failed; LiteLLM retries by its own settings."""
        attempt = self._open.pop(_text(request_data.get("metadata"), _KEY) or "", None)
        if attempt is not None:
            self._end(attempt, "failed", error=failure_of(exception).failed)

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Log the end of an answer, with its tokens and its cost."""
        metadata = (kwargs.get("litellm_params") or {}).get("metadata")
        attempt = self._open.pop(_text(metadata, _KEY) or "", None)
        if attempt is None:
            return
        answer = response_obj.model_dump(mode="json") if hasattr(response_obj, "model_dump") else {}
        first = kwargs.get("completion_start_time") if kwargs.get("stream") else None
        first_s = None if first is None else max(0.0, (first - start_time).total_seconds())
        self._end(attempt, "ok", tokens=tokens_of(answer), first_s=first_s)

    async def async_post_call_response_headers_hook(
        self, data: dict[str, Any], *rest: Any, **more: Any
    ) -> dict[str, str] | None:
        """Return the header with the id of the decision, as `serve` does."""
        decision = _text(data.get("metadata"), _KEY)
        return None if decision is None else {"x-router-rl-decision": decision}

    def close(self) -> None:
        """Write the rows that wait for the log and what was learned, and close the log."""
        self._closing.set()
        self._watching.join(_CLOSE_S)  # one thread at a time may call the learner
        self.writer.close()
        if self.learner is not None:
            with suppress(SQLAlchemyError):  # the next start learns it from the log
                self.learner.keep()
        self.store.close()

    def _end(
        self,
        attempt: _Attempt,
        status: str,
        *,
        error: str | None = None,
        tokens: tuple[int, int] | None = None,
        first_s: float | None = None,
    ) -> None:
        if tokens is not None:
            self.decider.answered(attempt.expert, tokens[1])
        self.writer.update(
            {
                "id": attempt.id,
                "status": status,
                "error": error,
                "tokens_in": None if tokens is None else tokens[0],
                "tokens_out": None if tokens is None else tokens[1],
                "cost_usd": None if tokens is None else cost_of(self._prices[attempt.expert], *tokens),
                "latency_s": time.perf_counter() - attempt.began,
                "first_token_s": first_s,
            }
        )

    def _watch(self) -> None:
        """Apply promoted routers and learn from outcomes, as long as the process runs."""
        last_change = ""
        while not self._closing.wait(self._options.poll_s):
            try:
                changed = follow(self.decider, self.store.deployment())
                if self.learner is not None:
                    self.learner.follow(self.decider.live.router)
            except InputError as error:
                changed = f"not changed: {error}"
            except SQLAlchemyError:
                continue  # the log is down; the writer counts that
            if changed and changed != last_change:
                say(changed)
            last_change = changed or last_change


@dataclass
class _Attempt:
    """One call of one expert.

    Attributes:
        id: id of the decision.
        expert: name of the expert.
        began: `time.perf_counter` at the decision.
    """

    id: str
    expert: str
    began: float


def _add_outcomes(app: Any, store: LogStore) -> None:
    """Add `/v1/outcomes` to LiteLLM's proxy, protected by LiteLLM's keys, for scores of decisions."""
    from fastapi import Depends, HTTPException
    from litellm.proxy.auth.user_api_key_auth import user_api_key_auth

    def outcomes(body: dict[str, Any]) -> dict[str, Any]:
        try:
            decision, score = read_outcome(body)
            exists = store.attach(decision, score)
        except BadRequestError as error:
            raise HTTPException(400, str(error)) from error
        except SQLAlchemyError as error:
            reason = "the log cannot be written now; send the outcome again"
            raise HTTPException(503, reason) from error
        if not exists:
            raise HTTPException(404, f"decision {decision!r} is not in the log")
        return {"decision": decision, "score": score}

    outcomes.__annotations__ = {"body": dict[str, Any], "return": dict[str, Any]}  # FastAPI reads them
    app.post("/v1/outcomes", dependencies=[Depends(user_api_key_auth)])(outcomes)


def expert_of(deployment: Mapping[str, Any]) -> str:
    """Return the expert that a deployment serves: `expert` of its `model_info`, else `id`.

    Args:
        deployment: an entry of LiteLLM's model list.
    """
    about = cast("Mapping[str, Any]", deployment.get("model_info") or {})
    return str(about.get("expert") or about.get("id"))


def _text(metadata: Any, name: str) -> str | None:
    value = cast("Mapping[str, Any]", metadata).get(name) if isinstance(metadata, Mapping) else None
    return value if isinstance(value, str) else None
