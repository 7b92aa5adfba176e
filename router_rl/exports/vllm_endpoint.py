"""Addresses of `vllm serve` that show and change which experts an exported router may choose.

vLLM adds them where VLLM_PLUGINS names `router_rl`, beside the plugin that routes. Whoever reaches the server
can call them: put them behind the same door as the rest of it.
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
        """Add both addresses to the server.

        Args:
            app: its FastAPI application.
        """
        app.add_api_route("/router_rl", self.status, methods=["GET"])
        app.add_api_route("/router_rl/alive", self.alive, methods=["POST"])

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Keep the client of the engine.

        Args:
            engine_client: its client; None on a server without an engine.
            state: not read.
            args: not read.
        """
        self._engine = engine_client

    async def status(self) -> dict[str, Any]:
        """What each layer's router says: its experts, which may be chosen, and the rows that fell back."""
        self._check(self._engine is not None, 503, "this server has no engine")
        layers: dict[str, Any] = (await self._engine.collective_rpc("router_rl_status"))[0]
        self._check(bool(layers), 404, "no layer routes by an export: start vllm serve with ROUTER_RL_ROUTER")
        return layers

    async def alive(self, alive: list[bool]) -> dict[str, Any]:
        """Say which experts may be chosen, in all layers and workers, from the next batch on.

        Args:
            alive: [N], for the routers' experts.
        """
        sizes = {len(layer["experts"]) for layer in (await self.status()).values()}
        self._check(sizes == {len(alive)}, 422, f"give one value for each expert: {sorted(sizes)}")
        await self._engine.collective_rpc("router_rl_alive", args=(alive,))
        return await self.status()

    def _check(self, holds: bool, code: int, problem: str) -> None:
        if not holds:
            raise importlib.import_module("fastapi").HTTPException(code, problem)
