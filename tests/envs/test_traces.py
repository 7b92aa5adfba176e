"""Arrival traces: read, checked, divided, and made."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.traces import Arrivals, open_arrivals
from experts import InputError


def test_gaps_have_mean_1_and_parts_keep_the_order():
    trace = Arrivals(name="by hand", arrival_s=np.array([0.0, 1.0, 4.0, 6.0, 6.0, 10.0]))
    assert trace.gaps().tolist() == [0.5, 1.5, 1.0, 0.0, 2.0]
    assert trace.part(0.5, 1.0).arrival_s.tolist() == [6.0, 6.0, 10.0]


def test_jitter_spreads_rounded_stamps_and_no_further():
    trace = Arrivals(name="rounded", arrival_s=np.repeat([0.0, 3.0, 6.0], 100))
    spread = trace.jittered(3.0)
    assert (np.diff(spread.arrival_s) >= 0).all()
    assert len(np.unique(spread.arrival_s)) == 300
    assert spread.arrival_s.min() >= 0.0
    assert spread.arrival_s.max() <= 9.0


def test_a_trace_is_read_from_parquet(tmp_path):
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"arrival_s": [0.0, 0.5, 2.0], "tokens_in": [1, 2, 3]}), path)
    assert open_arrivals(path).arrival_s.tolist() == [0.0, 0.5, 2.0]
    assert open_arrivals(str(path)).name == "trace"


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 1.0], "is too short"),
        ([0.0, 2.0, 1.0], "row 2 is before row 1; sort the trace"),
        ([0.0, np.nan, 1.0], "row 1 is not finite; drop the row"),
        ([3.0, 3.0, 3.0], "arrival_s=3.0: all requests arrive at once"),
    ],
)
def test_a_bad_trace_is_named(times, message):
    with pytest.raises(InputError, match=message):
        Arrivals(name="bad", arrival_s=np.array(times))


def test_a_file_that_is_no_trace_is_named(tmp_path):
    path = tmp_path / "other.parquet"
    with pytest.raises(InputError, match="no such file"):
        open_arrivals(path)
    pq.write_table(pa.table({"time": [0.0, 0.5, 2.0]}), path)
    with pytest.raises(InputError, match="has no readable column arrival_s"):
        open_arrivals(path)
    with pytest.raises(InputError, match="poisson"):
        open_arrivals("poison")


def test_made_arrivals_vary_as_they_should():
    spread = {name: open_arrivals(name, seed=1).gaps().std() for name in ("poisson", "bursts")}
    assert spread["poisson"] == pytest.approx(1.0, abs=0.02)  # an exponential's deviation is its mean
    assert spread["bursts"] > 1.2
    assert (open_arrivals("bursts", seed=1).arrival_s == open_arrivals("bursts", seed=1).arrival_s).all()


def test_the_real_traces_read(shared_table):
    trace = open_arrivals(shared_table("trace_azure2023_code.parquet"))
    assert len(trace.arrival_s) == 8819
    assert trace.gaps().std() == pytest.approx(13.15, abs=0.05)
