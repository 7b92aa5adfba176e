"""The constants of queues and of model servers that policies know, from the options and the training rows."""

from __future__ import annotations

from envs import QueueingConfig, QueueUnits
from envs.request_lengths import Lengths

from ...routing import QueueConstants, ServerConstants

__all__ = ["measured_constants"]


def measured_constants(
    config: QueueingConfig, units: QueueUnits, lengths: Lengths | None
) -> QueueConstants | ServerConstants:
    """Return the constants of the experts' queues, or of their model servers, in seconds.

    Args:
        config: the environment's options, at one load.
        units: measured on the training rows.
        lengths: tokens of the training requests; None for servers of queues.
    """
    experts = len(units.service)
    gap, repair = config.gap(units.batch_service), config.mean_repair * units.mean_service
    if lengths is None:
        return QueueConstants(
            service=tuple(units.service),
            batch_service=tuple(units.batch_service),
            replicas=tuple(config.replicas_of(experts).tolist()),
            gap=gap,
            repair=repair,
            batch=config.batch,
            batch_slope=config.batch_slope,
            budget=config.budget or 0.0,
        )
    means, none = lengths.means(), tuple(0.0 for _ in units.servers)
    refill = tuple(config.api.of(experts)["burst_s"]) if config.servers == "api" else none
    # A mean request needs the share of the bucket that refills in the time of a request at capacity.
    need = tuple(pace / each for pace, each in zip(units.batch_service, refill, strict=True) if each) or none
    return ServerConstants(
        service=tuple(units.service),
        drain=tuple(units.batch_service),
        seats=tuple(each.seats for each in units.servers),
        first=tuple(each.first for each in units.servers),
        prompt=tuple(means[:, 0].tolist()),
        prompt_s=tuple(each.prompt for each in units.servers),
        token_s=tuple(each.token for each in units.servers),
        full_token_s=tuple(each.token_full for each in units.servers),
        refill_s=refill,
        need=need,
        gap=gap,
        repair=repair,
        budget=config.budget or 0.0,
    )
