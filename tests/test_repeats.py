"""The list of tests that are left out where CI is set."""

from __future__ import annotations

from pathlib import Path

import pytest
from repeats import REPEATS


@pytest.mark.parametrize("name", sorted({name.partition("[")[0] for name in REPEATS}))
def test_what_is_left_out_is_there(name):
    path, _, function = name.partition("::")
    assert f"def {function}(" in (Path(__file__).parent / path).read_text()
