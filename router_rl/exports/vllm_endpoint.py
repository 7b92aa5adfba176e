"""HTTP endpoints of `vllm serve` that show and set which experts an exported router may choose.

vLLM adds them, next to the plugin that routes, if VLLM_PLUGINS names `router_rl`. Everyone who can reach the
server can call them: protect them as the rest of the server.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["RouterEndpoint"]


class RouterEndpoint:
    """An endpoint plugin of vLLM: `GET /router_rl` and `POST /router_rl/alive`."""

    name = "router_rl"
    required_tasks = None

    def __init__(self) -> None:
        self._engine: Any = None

    def attach_router(self, app: Any) -> None:
        """Add both endpoints to the server.

        Args:
            app: the server's FastAPI application.
        """
        app.add_api_route("/router_rl", self.status, methods=["GET"])
        app.add_api_route("/router_rl/alive", self.alive, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Store the client of the engine.

        Args:
            engine_client: the client; None on a server without an engine.
            state: not read.
            args: not read.
        """
        self._engine = engine_client

    async def status(self) -> dict[str, Any]:
        """Return each layer's experts, which of them may be chosen, and its number of fallback rows."""
        self._check(self._engine is not None, 503, "this server has no engine")
        layers: dict[str, Any] = (await self._engine.collective_rpc("router_rl_status"))[0]
        self._check(bool(layers), 404, "no layer routes by an export: start vllm serve with ROUTER_RL_ROUTER")
        return layers

    async def alive(self, alive: list[bool]) -> dict[str, Any]:
        """Set which experts may be chosen, in all layers and workers, from the next batch on.

        Args:
            alive: [N], True for experts of the routers that may be chosen.

        Returns:
            the new status of each layer.
        """
        sizes = {len(layer["experts"]) for layer in (await self.status()).values()}
        self._check(sizes == {len(alive)}, 422, f"give one value for each expert: {sorted(sizes)}")
        await self._engine.collective_rpc("router_rl_alive", args=(alive,))
        return await self.status()

    def _check(self, holds: bool, code: int, problem: str) -> None:
        if not holds:
            raise importlib.import_module("fastapi").HTTPException(code, problem)
