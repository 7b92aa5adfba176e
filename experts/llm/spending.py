"""A cap on what requests cost: an attempt is sent only if its highest possible cost still fits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..io.errors import InputError
from ..table.prices import Price
from .asking import Reply, Request
from .endpoints import Endpoint

__all__ = ["Spending", "check_capped", "cost_of", "highest_cost"]

_TEMPLATE = 100  # tokens that a server can add to a prompt: the chat template
_MILLION = 1e6


def cost_of(price: Price, tokens_in: float, tokens_out: float) -> float:
    """Return the cost of an answer in US dollars.

    Args:
        price: of the model.
        tokens_in: prompt tokens.
        tokens_out: answer tokens.
    """
    return price.call + (tokens_in * price.input + tokens_out * price.output) / _MILLION


def highest_cost(request: Request, price: Price) -> float:
    """Return the highest possible cost of an attempt in US dollars: `max_tokens` are answered.

    A token is at least one byte of the prompt, and the chat template adds some.

    Args:
        request: to a model with `max_tokens`, if its answers have a price.
        price: of the model.
    """
    most = (_longest_answer(request.endpoint) or 0) * _answers(request.endpoint)
    return cost_of(price, len(request.prompt.encode(errors="replace")) + _TEMPLATE, most)


def check_capped(endpoints: Sequence[Endpoint], prices: Mapping[str, Price]) -> None:
    """Check that every answer has a highest possible cost.

    Args:
        endpoints: the models.
        prices: by the name of the model.

    Raises:
        InputError: a model has a price per answer token and no `max_tokens`.
    """
    for each in endpoints:
        if prices[each.name].output and _longest_answer(each) is None:
            problem = "is needed with a cost cap, because the longest answer sets what a request can cost"
            raise InputError(f"models.{each.name}.max_tokens", None, problem, "add max_tokens: 512")


class Spending:
    """What requests have cost and can still cost; without a cap every attempt is admitted.

    Args:
        cap: US dollars in total; None: no cap.
        prices: by the name of the model; the cost of other models is not known and not counted.
        spent: US dollars before.
        reserve: is called with each attempt and its highest possible cost before it is sent, if there is a
            cap.

    Attributes:
        cap: see Args.
        spent: US dollars of all attempts that have ended.
        stopped: an attempt did not fit, so no further one is admitted.
    """

    def __init__(
        self,
        cap: float | None,
        prices: Mapping[str, Price],
        *,
        spent: float = 0.0,
        reserve: Callable[[Request, float], None] | None = None,
    ) -> None:
        self.cap = cap
        self.spent = spent
        self.stopped = False
        self._prices = prices
        self._reserve = reserve
        self._open: list[float] = []  # the highest possible cost of each attempt that is in flight
        self._waiting: list[asyncio.Future[None]] = []

    def price(self, request: Request) -> Price | None:
        """Return the price of a request's model; None if it is not known.

        Args:
            request: to a model.
        """
        return self._prices.get(request.endpoint.name)

    def highest(self, request: Request) -> float:
        """Return the highest possible cost of an attempt in US dollars.

        Args:
            request: to a model.
        """
        price = self.price(request)
        return 0.0 if price is None else highest_cost(request, price)

    async def admit(self, request: Request) -> bool:
        """Wait until an attempt fits under the cap and reserve its highest possible cost.

        Args:
            request: to a model.

        Returns:
            Whether it may be sent; False once an attempt does not fit although none is in flight.
        """
        highest = self.highest(request)
        while self.cap is not None and not self.stopped:
            if self.spent + math.fsum(self._open) + highest <= self.cap:
                break
            if not self._open:
                self.stopped = True
                self._wake()
                break
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        if self.stopped:
            return False
        self._open.append(highest)
        if self.cap is not None and self._reserve is not None:
            self._reserve(request, highest)
        return True

    def settle(self, request: Request, reply: Reply | None) -> float:
        """Replace the reservation of an attempt by its cost, and return the cost in US dollars.

        Args:
            request: an admitted one.
            reply: of the attempt; without an answer it costs its highest possible cost if the provider may
                charge for it. None: it was interrupted.
        """
        highest, price = self.highest(request), self.price(request)
        self._open.remove(highest)
        usd = highest if reply is None or reply.charged else 0.0
        if reply is not None and reply.record is not None and price is not None:
            usd = cost_of(price, reply.record["tokens_in"], reply.record["tokens_out"])
        self.spent += usd
        self._wake()
        return usd

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)


def _longest_answer(endpoint: Endpoint) -> int | None:
    """Return the most tokens of an answer; None if nothing sets it."""
    options = endpoint.options
    limits = [endpoint.max_tokens or options.get("max_tokens"), options.get("max_completion_tokens")]
    known = [each for each in limits if isinstance(each, int) and each > 0]
    return max(known) if known else None


def _answers(endpoint: Endpoint) -> int:
    """Return the number of answers that a request asks for."""
    wanted: Any = endpoint.options.get("n", 1)
    return wanted if isinstance(wanted, int) and wanted > 0 else 1
