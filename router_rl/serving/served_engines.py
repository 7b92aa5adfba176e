"""The inference engines behind the models, as one router of engines reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..routing.policies.live_servers import updated_means
from ..routing.scorers.server_scorer import ServerConstants
from .engine_metrics import EngineLoad
from .loaded_router import LoadedRouter
from .served_servers import Call, ServedServers, ServersNow

__all__ = ["ServedEngines"]

_STALE_S = 5.0  # a load is not used any longer


class ServedEngines(ServedServers):
    """Loads and recent times of engines, for one router.

    An engine has the load that it reports, and the requests that this server sent to it since. While it
    reports none, it has the requests of this server alone, and its cache is as full as its seats.

    Args:
        loaded: a router of engines.
        constants: constants of its training.
        loads: by expert, the last load, and when it was asked for on the clock of the queues; kept up to date
            by others.
    """

    def __init__(
        self,
        loaded: LoadedRouter,
        constants: ServerConstants,
        loads: Mapping[str, tuple[EngineLoad, float]],
    ) -> None:
        super().__init__(loaded, constants)
        self._loads = loads

    def now(self, calls: Mapping[str, Collection[Call]], now: float) -> ServersNow:
        """Return the load of each engine, and the prompt tokens of requests without a first token.

        See `ServedServers.now`.
        """
        rows = [self._row(name, calls.get(name, ()), now) for name in self.experts]
        loads = [load for load, _ in rows]
        return ServersNow(
            waiting=[load.waiting for load in loads],
            taken=[load.running for load in loads],
            used=[load.used for load in loads],
            ahead=[ahead for _, ahead in rows],
        )

    def first_token(self, call: Call) -> None:
        """Update the running mean of the seconds to the first token; see `ServedServers.first_token`."""
        if call.expert in self._means and call.first is not None:
            first, token = self._means[call.expert]
            self._means[call.expert] = updated_means((first, token), [(call.first - call.arrived, token)])

    def answered(
        self, call: Call, tokens: tuple[float, float], seconds: float, first_s: float | None, now: float
    ) -> None:
        """Update the running mean of the seconds per further token, and of the first if it was not seen.

        See `ServedServers.answered`.
        """
        if call.expert not in self._means:
            return
        means = self._means[call.expert]
        times = means  # a single token shows no time of a further one
        if first_s is None:
            times = self.split_times(call, tokens[1], seconds)
        elif tokens[1] > 1:
            times = (means[0], max(seconds - first_s, 0.0) / (tokens[1] - 1.0))
        self._means[call.expert] = updated_means(means, [times])

    def _row(self, name: str, calls: Collection[Call], now: float) -> tuple[EngineLoad, float]:
        """Return the load of an engine, and its prompt tokens that are not computed yet."""
        first_s = self._means[name][0]
        ahead = sum(
            each.tokens.prompt
            for each in calls
            if each.tokens is not None and not _has_first(each, now, first_s)
        )
        seats = self.constants.seats[self.experts.index(name)]
        held = sum(each.begins > now for each in calls)  # by the rate limits of the model list
        load, asked = self._loads.get(name, (None, now))
        if load is None or now - asked > _STALE_S:
            load, sent = EngineLoad(0.0, 0.0, 0.0), len(calls) - held
            used = min(sent / seats, 1.0)
        else:
            sent = sum(asked < each.begins <= now for each in calls)
            used = load.used
        free = 0.0 if load.waiting else max(0.0, seats - load.running)
        begin = min(float(sent), free)
        return EngineLoad(load.running + begin, load.waiting + held + sent - begin, used), ahead


def _has_first(call: Call, now: float, first_s: float) -> bool:
    """Return whether a request has its first token; of an answer that is not streamed, whether it is due."""
    return call.first is not None if call.streamed else now - call.arrived > first_s
