"""The live page says which models drifted, from the log of the router that serves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy.exc import SQLAlchemyError

from router_rl.serving.drift_status import drift_status
from router_rl.serving.loaded_router import LoadedRouter
from router_rl.serving.log_store import LogStore
from router_rl.serving.log_tables import DECISIONS

EMPTY = {column.name: None for column in DECISIONS.columns}


def _logged(store: LogStore, router: LoadedRouter, name: str, chances: list[float]) -> None:
    """Log a decision for `small` with each chance of being right, and one in five for `large`."""
    rng = np.random.default_rng(0)
    rows = [
        {
            **EMPTY,
            "id": f"{name}{at}",
            "at": 1e9 + at,
            "router": router.digest,
            "requested": "auto",
            "expert": "large" if at % 5 == 0 else "small",
            "propensity": 0.8,
            "status": "ok",
            "streamed": False,
            "cost_usd": 0.001,
        }
        for at in range(len(chances))
    ]
    store.write(rows, [])
    for row, chance in zip(rows, chances, strict=True):
        store.attach(row["id"], float(rng.random() < (0.9 if row["expert"] == "large" else chance)))


def test_a_model_that_became_worse_is_named(router: Path, other_router: Path, tmp_path: Path) -> None:
    store = LogStore(f"sqlite:///{tmp_path}/log.db")
    live, other = LoadedRouter.of(router), LoadedRouter.of(other_router)
    assert drift_status(store, live) == {"decisions": 0, "problem": "too few decisions of this router"}
    _logged(store, live, "live", [0.9] * 200 + [0.3] * 100)
    _logged(store, other, "other", [0.9] * 200)
    found = drift_status(store, live)
    assert found["decisions"] == 300
    assert [(alarm["expert"], alarm["kind"]) for alarm in found["alarms"]] == [("small", "quality")]
    assert found["alarms"][0]["seen"] < 0.5 < found["alarms"][0]["expected"]
    assert drift_status(store, other) == {"decisions": 200, "alarms": []}
    store.close()


def test_the_status_has_the_drift_of_the_live_router(
    serve: Callable[..., Any], other_router: Path, monkeypatch: Any
) -> None:
    with serve() as running:
        live = running.server.decider.live.router
        _logged(running.server.store, live, "live", [0.9] * 200 + [0.3] * 100)
        found = running.http.get("/v1/status").json()["drift"]
        assert [alarm["expert"] for alarm in found["alarms"]] == ["small"]

        def down(**_: Any) -> Any:
            raise SQLAlchemyError

        monkeypatch.setattr(running.server.store, "decisions", down)
        assert running.http.get("/v1/status").json()["drift"] == found  # not computed at each request
        running.server._cached.clear()
        found = running.http.get("/v1/status").json()["drift"]
        assert found == {"decisions": 0, "problem": "the log cannot be read now"}
    with serve(online="thompson") as running:
        assert running.http.get("/v1/status").json()["drift"] is None
