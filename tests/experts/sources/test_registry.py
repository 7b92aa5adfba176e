from __future__ import annotations

import pytest

from experts import SOURCES, InputError, collect
from experts.sources import open_source


def test_the_names():
    assert set(SOURCES) == {"digits", "fashion-mnist", "routellm_gsm8k"}
    assert open_source("digits").name == "digits"
    assert open_source("some/path.parquet") is None


def test_an_unknown_source_suggests_the_nearest(tmp_path):
    with pytest.raises(InputError, match="source='digit': unknown; did you mean 'digits'"):
        collect("digit", tmp_path / "t.parquet")


@pytest.mark.parametrize("name", ["digits"])
def test_a_source_is_a_function_of_its_seed(name):
    source = open_source(name)
    first, second = source.queries(3), source.queries(3)
    assert first.inputs.equal(second.inputs)
    assert (first.query_id == second.query_id).all()
    assert (first.features == second.features).all()
    assert not first.inputs.equal(source.queries(4).inputs)
    assert source.digest(3) == source.digest(3)
    assert source.describe()
