"""The list of tests that are left out where CI is set."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import COLLECTED
from repeats import REPEATS, is_repeat


@pytest.mark.parametrize("name", sorted({name.partition("[")[0] for name in REPEATS}))
def test_what_is_left_out_is_there(name):
    path, _, function = name.partition("::")
    assert f"def {function}(" in (Path(__file__).parent / path).read_text()


def test_every_entry_leaves_a_test_out(pytestconfig):
    """Of an entry whose test has other parameters by now, nothing would be left out."""
    if pytestconfig.option.file_or_dir or pytestconfig.option.keyword:
        pytest.skip("not all tests were collected")
    found = [name.removeprefix("tests/") for name in pytestconfig.stash[COLLECTED] if is_repeat(name)]
    assert not [entry for entry in REPEATS if not any(name.startswith(entry) for name in found)]
