"""`tracking.json` and `mlflow.json`: what is read is a description, or one sentence says what is wrong."""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distsgd.errors import RunDirectoryError
from distsgd.tracking import description, run_id
from distsgd.tracking.description import DatasetDescription, ModelDescription, RunDescription
from distsgd.tracking.run_id import RunId

GOOD = RunDescription(
    uri="sqlite:////m.db",
    experiment="distsgd",
    name="run",
    began_ms=1,
    parameters={"optim.lr": "0.1"},
    tags={"distsgd.run_key": "k"},
    datasets=[DatasetDescription("training", "digits", "digits", "d", 3, {"mlflow_colspec": []})],
    model=ModelDescription("long", [[1.5, True], [2, False]], columns=["a", "b"], booleans=["b"]),
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("description")


def read(folder, content: bytes) -> RunDescription | str:
    (folder / description.FILE).write_bytes(content)
    try:
        return description.read(folder)
    except RunDirectoryError as error:
        return str(error)


def test_what_was_written_is_read(folder):
    assert read(folder, json.dumps(GOOD.to_json()).encode()) == GOOD
    written = RunId("r", "1", "http://h")
    run_id.write(folder, written)
    assert (run_id.read(folder), run_id.known(folder)) == (written, "r")


def test_paths_that_are_not_utf_8_can_be_stored(folder):
    named = replace(GOOD, name=os.fsdecode(b"r\xff\xe9"))
    found = read(folder, json.dumps(named.to_json()).encode())
    assert isinstance(found, RunDescription)
    assert re.fullmatch("r\N{REPLACEMENT CHARACTER}+", found.name)
    assert replace(found, name=GOOD.name) == GOOD


@example("began_ms", 10**400)
@example("tags", {})
@example("parameters", {"\n": None})
@example("datasets", None)
@given(st.sampled_from(sorted(asdict(GOOD))), JSON)
def test_a_wrong_value_is_named(folder, key, value):
    found = read(folder, json.dumps(asdict(GOOD) | {key: value}).encode())
    if isinstance(found, str):
        assert found.count("\n") == 0
        assert key in found or "invalid JSON" in found  # which has neither NaN nor infinity
    else:
        assert asdict(found) == asdict(GOOD) | {key: asdict(found)[key]}


@example(b"[" * 100_000)
@example(b"9" * 5000)
@given(st.binary(max_size=40) | st.builds(lambda value: json.dumps(value).encode(), JSON))
def test_other_content_is_refused(folder, content):
    assert "tracking.json that can be read" in read(folder, content)
    (folder / run_id.FILE).write_bytes(content)
    assert run_id.read(folder) is None
