"""Every way a table can be wrong, with the words that name column, row and fix."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from experts import InputError, OutcomeTable


def changed(values, place, value):
    values = np.array(values, copy=True)
    values[place] = value
    return values


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (
            "quality",
            lambda v: changed(v, (4, 1), np.nan),
            r"quality/large-4.5=nan: row 4 .*'q4'.* is missing",
        ),
        (
            "quality",
            lambda v: changed(v, (2, 0), 1.5),
            r"quality/small=1.5: row 2 .* outside \[0, 1\]; scale",
        ),
        ("quality", lambda v: changed(v, (2, 0), -0.5), r"quality/small=-0.5: row 2"),
        ("quality", lambda v: v[:, :1], r"quality=\(6, 1\): should have shape \(6, 2\)"),
        ("quality", lambda v: [["good", "bad"]] * 6, r"quality='list': is not numeric"),
        ("cost", lambda v: changed(v, (5, 1), -1), r"cost/large-4.5=-1.0: row 5 .* outside \[0, inf\); give"),
        ("cost", lambda v: changed(v, (0, 0), np.nan), r"cost/small=nan: row 0 .* is missing"),
        ("cost", lambda v: changed(v, (0, 0), np.inf), r"cost/small=inf: row 0"),
        ("latency_s", lambda v: changed(v, (1, 1), -1), r"latency_s/large-4.5=-1.0: row 1 .* leave unknown"),
        ("tokens_out", lambda v: changed(v, (1, 1), -1), r"tokens_out/large-4.5=-1.0: row 1"),
        ("confidence", lambda v: changed(v, (1, 1), np.inf), r"confidence/large-4.5=inf: row 1"),
        ("features", lambda v: changed(v, (3, 2), np.nan), r"features\[2\]=nan: row 3 .*'q3'.* not finite"),
        ("features", lambda v: v[:5], r"features=\(5, 4\): should have shape \(6, any\)"),
        ("features", lambda v: v[:, :0], r"features=\(6, 0\): should have shape"),
        ("query_id", lambda v: changed(v, 5, "q1"), r"query_id='q1': rows 1 and 5 share it; make"),
        ("query_id", lambda v: changed(v, 5, None), r"query_id=None: row 5 is missing"),
        ("query_id", lambda v: [], r"query_id=0: the table has no rows; collect"),
        ("split", lambda v: changed(v.astype(object), 2, "dev"), r"split='dev': row 2 is unknown; use train"),
        ("prompt", lambda v: changed(v, 1, None), r"prompt=None: row 1 is missing"),
        ("group", lambda v: v[:2], r"group=\(2,\): should have shape \(6\)"),
        ("fold", lambda v: [0.5] * 6, r"fold=.*0.5.*: row 0 is not an integer"),
        ("fold", lambda v: ["a"] * 6, r"fold='list': is not integer"),
        ("experts", lambda v: ("one",), r"experts=\['one'\]: routing needs a choice; give 2"),
        ("experts", lambda v: ("same", "same"), r"experts='same': occurs twice"),
        ("experts", lambda v: ("same", ""), r"experts='': an expert has no name"),
        ("cost_unit", lambda v: "euro", r"cost_unit='euro': unknown; use one of usd"),
        ("label", lambda v: None, r"label=None: probabilities and label go together; add label"),
        ("probabilities", lambda v: None, r"probabilities=None: .* add probabilities"),
        ("label", lambda v: changed(v, 4, 3), r"label=3: row 4 .* outside 0..2; number"),
        (
            "probabilities",
            lambda v: changed(v, (3, 1, 0), 2),
            r"probabilities/large-4.5=.*row 3 .* distribution",
        ),
        ("probabilities", lambda v: changed(v, (3, 1, 0), np.nan), r"probabilities/large-4.5=.*row 3"),
        ("extra", lambda v: pa.table({"x": [1]}), r"extra=1: should have 6 rows"),
    ],
)
def test_the_error_names_column_row_and_fix(columns, field, change, message):
    fields = columns()
    fields[field] = change(fields[field])
    with pytest.raises(InputError, match=message):
        OutcomeTable(**fields)


@pytest.mark.parametrize("part", ["split", "fold"])
def test_a_prompt_in_two_parts_is_an_error(columns, part):
    fields = columns()
    fields["prompt"] = changed(fields["prompt"], 2, "question 0")
    if part == "fold":
        fields["split"] = ["train"] * 6
    with pytest.raises(
        InputError, match=rf"prompt='question 0'.* {part} .* \(row 0\).*\(row 2\).*allow-leakage"
    ):
        OutcomeTable(**fields)


def test_a_note_that_admits_the_leak_lifts_the_check(columns):
    fields = columns(notes=("leakage allowed: on purpose",))
    fields["prompt"] = changed(fields["prompt"], 2, "question 0")
    assert OutcomeTable(**fields).notes == ("leakage allowed: on purpose",)


def test_unknown_outcomes_may_be_missing(columns):
    fields = columns(latency_s=np.full((6, 2), np.nan), tokens_out=np.full((6, 2), np.nan))
    assert np.isnan(OutcomeTable(**fields).latency_s).all()


def test_long_prompts_are_cut_in_the_message(columns):
    with pytest.raises(InputError) as caught:
        OutcomeTable(**columns(prompt=["x" * 10_000] * 6))
    assert len(str(caught.value)) < 300
